# shellcheck shell=sh
# What all scripts share. It comes before each of them.
#
# A script is the argument of /bin/sh -c. Nothing is ever put into its text:
# what differs comes in "$@", ASCII words that we made up ourselves, and what a
# user said comes on standard input or in files below $spool, as bytes. Where
# user data must become shell words, Go quotes it (quote in spec.go).
#
# dash, busybox ash and bash run them, with the tools of coreutils or busybox.
umask 077
lc=${LC_ALL-}
export LC_ALL=C
PATH=${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}
spool=/var/lib/agentlab
inline=32768 # bytes that are returned with an answer; more is left in a file

# prepare makes the spool. What an earlier boot left is of no process any more.
prepare() {
	[ -d $spool/tmp ] || { (umask 066 && mkdir -p ${spool%/*} $spool) && mkdir -p $spool/tmp; }
	boot='' now=''
	read -r boot 2>/dev/null <$spool/boot
	read -r now </proc/sys/kernel/random/boot_id
	if [ "$boot" != "$now" ]; then
		rm -rf $spool/p_* $spool/r_* $spool/tmp/*
		echo "$now" >$spool/boot
	fi
}

# become USER COMMAND...: turns into COMMAND, run by USER; empty is as we are.
become() {
	u=$1
	shift
	if [ -z "$u" ] || [ "$u" = "$(id -un)" ]; then exec "$@"; fi
	g=$(id -g "$u") || exit 125
	if setpriv --reuid "$u" --regid "$g" --init-groups true 2>/dev/null; then
		exec setpriv --reuid "$u" --regid "$g" --init-groups "$@"
	fi
	# busybox: its setpriv can't, its su does not fork.
	exec su -s /bin/sh -c 'exec "$@"' "$u" sh "$@"
}

# doze sleeps, each time for longer; $nap is set to 0 before the first. It is
# how a script waits for a file.
doze() {
	nap=$((nap + nap / 2 + 1))
	[ $nap -gt 20 ] && nap=20
	sleep "0.$((nap / 10))$((nap % 10))"
}

# marked prints the processes that have the mark of job $1 in their environment.
marked() {
	if printf 'a\0b=c' | grep -qaF 'b=c'; then
		grep -laF "AGENTLAB_JOB=$1" /proc/[0-9]*/environ 2>/dev/null
	else # busybox looks at a line up to its first NUL
		for f in /proc/[0-9]*/environ; do
			tr '\0' '\n' 2>/dev/null <"$f" | grep -qxF "AGENTLAB_JOB=$1" && echo "$f"
		done
	fi
}

# slay kills all of job $1, also what left its process group.
slay() {
	round=0
	while [ $round -lt 100 ]; do
		round=$((round + 1))
		found=''
		for f in $(marked "$1"); do
			f=${f#/proc/}
			kill -KILL "${f%/environ}" 2>/dev/null && found=1
		done
		[ "$found" ] || return 0
	done
}

# uptime prints hundredths of a second since boot.
uptime() {
	read -r up _ </proc/uptime
	echo "${up%.*}${up#*.}"
}

prepare
# What earlier calls left to be removed.
# shellcheck disable=SC2086 # they are words
case ${1-} in ?*) (cd $spool/tmp && rm -rf $1) ;; esac
