# shellcheck shell=sh
# rekey LITTER TO HOSTNAME MACHINE_ID USER SPENT KEY HOSTKEY ID SECONDS <SECRETS
#
# Makes the guest another, which bears the identity TO: as if it had just been
# made, though it runs. KEY is our line in the authorized_keys of USER, in place
# of the keys SPENT; HOSTKEY is the public half of its new SSH host key; ID and
# SECONDS are as in arm.sh. SECRETS are two lines of random bytes in hex, and the
# private half as OpenSSH keeps it. What the guest has not is left out.
#
# All is read back. What was done is done again if this is run a second time.
prove
set -e
shift
to=$1 name=$2 machine=$3 user=$4 spent=$5 key=$6 hostkey=$7 armed=$8 seconds=$9
umask 022
newline='
'

# slurp sets $lines to the lines on standard input, changed by edit.
slurp() {
	lines=''
	while read -r line; do
		if edit; then lines=$lines$line$newline; fi
	done
}

# put FILE TEXT writes in place: it may be a mount, or another's.
put() {
	printf '%s\n' "$2" >"$1"
	back=''
	read -r back <"$1" || : # it may be empty
	[ "$back" = "${2%%"$newline"*}" ] || { echo "$1 holds $back" >&2; exit 1; }
}

read -r random
read -r saved
edit() { :; }
slurp
private=${lines%"$newline"}

printf '%s' "$random" >/dev/urandom
umask 077
if [ -d /var/lib/systemd ]; then : >>/var/lib/systemd/random-seed; fi
for f in /var/lib/systemd/random-seed /var/lib/urandom/random-seed /var/lib/seedrng/seed.credit /var/lib/seedrng/seed.no-credit; do
	if [ -e $f ]; then put $f "$saved"; fi
done
umask 022

{ echo "$name" >/proc/sys/kernel/hostname; } 2>/dev/null || hostname "$name"
put /etc/hostname "$name"
if [ -e /etc/hosts ]; then
	edit() { case $line in 127.0.1.1[!0-9]*) line="127.0.1.1 $name" ;; esac; }
	slurp </etc/hosts
	printf '%s' "$lines" >/etc/hosts
fi

put /etc/machine-id "$machine"
if [ -e /var/lib/dbus/machine-id ]; then put /var/lib/dbus/machine-id "$machine"; fi # mostly a link to the other

if [ -d /etc/ssh ]; then
	file=/etc/ssh/ssh_host_ed25519_key
	set --
	for f in /etc/ssh/ssh_host_*; do
		case $f in $file | $file.pub | *'*') ;; *) set -- "$@" "$f" ;; esac
	done
	[ $# = 0 ] || rm -f "$@"
	umask 077
	put $file "$private"
	umask 022
	put $file.pub "$hostkey"
	# SIGHUP has it begin anew; its sessions go on.
	pid='' comm=''
	if [ -e /run/sshd.pid ]; then read -r pid </run/sshd.pid; fi
	if [ -e "/proc/${pid:-none}/comm" ]; then read -r comm <"/proc/$pid/comm"; fi
	if [ "$comm" = sshd ]; then kill -HUP "$pid"; fi
fi

eval "home=~$user" # which stays as it is if there is no such user
keys=$home/.ssh/authorized_keys
if [ -e "$keys" ]; then
	edit() {
		for old in $spent "${key#* }"; do
			case $line in *"$old"*) return 1 ;; esac
		done
	}
	slurp <"$keys"
	put "$keys" "$key$newline${lines%"$newline"}"
fi

# Who is logged in was let in by what is good for nothing any more. Titles begin
# with their program's name once the session is authenticated (sshd-session.c).
servers=''
for f in /proc/[0-9]*; do
	comm='' title=''
	{ read -r comm <"$f/comm"; } 2>/dev/null || continue # it has ended
	case $comm in
	sshd | sshd-session)
		{ read -r title <"$f/cmdline"; } 2>/dev/null || : # which has no newline
		case $title in
		*'[listener]'*) ;;
		sshd*': '*) kill -KILL "${f#/proc/}" 2>/dev/null || : ;;
		esac
		;;
	agentlab-guest) servers="$servers $f" ;;
	esac
done
# An agentlab-guest has its keys in memory: whoever logs in next starts another,
# which needs the socket and the lock of this one.
for f in $servers; do
	kill -KILL "${f#/proc/}" 2>/dev/null || :
	tries=0 state=''
	while { read -r _ _ state _ <"$f/stat"; } 2>/dev/null && [ "$state" != Z ]; do
		tries=$((tries + 1))
		if [ $tries -gt 1000 ]; then sleep 0.01; fi
		if [ $tries -gt 2000 ]; then echo "agentlab-guest does not end" >&2; exit 1; fi
	done
done

# What was run before is nobody's any more. Of what begins with r_ nobody is told.
for f in $spool/p_*; do
	if [ -e "$f" ]; then rm -rf $spool/p_* $spool/k_*; fi
done
bears=''
if [ -d "$spool/tmp.$to" ]; then bears=$spool/tmp.$to; fi
for f in $spool/tmp.*; do
	if [ -z "$bears" ]; then bears=$f; fi
	if [ "$f" != "$bears" ]; then rm -rf "$f"; fi
done
switched=0
if [ -e $spool/armed ]; then
	arm "$armed" "$seconds"
	switched=1
fi
# Its log is kept by machine-id.
if [ -d /run/systemd/system ]; then systemctl restart systemd-journald </dev/null >/dev/null 2>&1 & fi
read -r machine </etc/machine-id
read -r name </proc/sys/kernel/hostname
echo "machine=$machine name=$name switched=$switched"
if [ "$bears" != "$spool/tmp.$to" ]; then exec mv "$bears" "$spool/tmp.$to"; fi
