# shellcheck shell=sh
# What the scripts of a channel share; it comes after mine.sh.
inline=32768 # bytes that are returned with an answer; more is left in a file

# prepare learns what this guest has, once it is known to be the one that is
# meant. What an earlier boot left is of no process any more.
prepare() {
	prove
	read -r boot </proc/sys/kernel/random/boot_id
	known && return
	if ! claim "$spool/boot-$boot"; then # another call is at it
		nap=0
		for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
			known && return
			doze
		done
	fi
	rm -rf $spool/p_* $spool/r_* $spool/k_* ${tmp:?}/*
	has=''
	gzip -1 </dev/null >/dev/null 2>&1 && has="$has gzip"
	# What busybox calls setpriv changes no user.
	if setpriv --help 2>&1 | grep -q init-groups; then
		has="$has setpriv"
	else
		for t in su start-stop-daemon; do command -v $t >/dev/null && has="$has $t" && break; done
	fi
	script -qefc true /dev/null </dev/null >/dev/null 2>&1 && has="$has script" # not that of busybox
	printf 'a\0b=c' | grep -qaF 'b=c' && has="$has environ" # not busybox
	ignoring && env --default-signal true 2>/dev/null && has="$has signals"
	cg=''
	for g in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
		mkdir $g/agentlab 2>/dev/null
		[ -w $g/agentlab/cgroup.procs ] && cg=$g/agentlab && break
	done
	[ -z "$cg" ] && [ -d /run/systemd/system ] && command -v busctl >/dev/null && has="$has systemd"
	printf '%s\n%s\n%s\n' "$boot" "$has" "$cg" >$spool/boot.new && mv $spool/boot.new $spool/boot
	for f in $spool/boot-*; do [ "$f" = "$spool/boot-$boot" ] || rm -f "$f"; done
}

known() {
	was='' has='' cg=''
	if [ -e $spool/boot ]; then { read -r was; read -r has; read -r cg; } <$spool/boot; fi
	[ "$was" = "$boot" ]
}

# ignoring says whether any signal is ignored: systemd starts services with PIPE
# so, others with INT, and no shell can take that back.
ignoring() {
	while read -r k v; do
		[ "$k" = SigIgn: ] && break
	done </proc/self/status
	case $v in *[!0]*) ;; *) false ;; esac
}

# claim makes the file $1, or fails if it was there.
claim() {
	set -C
	true 2>/dev/null >"$1"
	set -- $?
	set +C
	return "$1"
}

# once goes on only for the first who comes with the name $1. Others get what
# the first answered.
once() {
	claim "$tmp/$1.once" && return
	nap=0 tries=0
	until [ -s "$tmp/$1.said" ]; do
		[ $((tries += 1)) -gt 1000 ] && exit 1
		doze
	done
	read -r code <"$tmp/$1.said"
	[ "$code" = 0 ] || exec >&2
	tail -n +2 "$tmp/$1.said"
	exit "$code"
}

# said ends with the exit code $2 and the answer $3, for all who come with the
# name $1.
said() {
	printf '%s\n' "$2" "$3" >"$tmp/$1.said"
	[ "$2" = 0 ] || exec >&2
	printf '%s\n' "$3"
	exit "$2"
}

# become USER COMMAND...: turns into COMMAND, run by USER; empty is as we are.
become() {
	u=$1
	shift
	if [ -z "$u" ]; then exec "$@"; fi
	case $has in *setpriv*)
		g=$(id -g "$u") || exit 125
		exec setpriv --reuid "$u" --regid "$g" --init-groups "$@"
		;;
	*start-stop-daemon*)
		exec start-stop-daemon -S -q -c "$u" -p /nonexistent -x /bin/sh -- -c 'exec "$@"' sh "$@"
		;;
	# That of busybox does not fork.
	*su*) exec su -s /bin/sh -c 'exec "$@"' -- "$u" sh "$@" ;;
	esac
	echo "to run as $u it needs one of setpriv (util-linux), su and start-stop-daemon" >&2
	exit 125
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
	case $has in
	*environ*) grep -laF "AGENTLAB_JOB=$1" /proc/[0-9]*/environ 2>/dev/null ;;
	*) # a line is looked at up to its first NUL
		for f in /proc/[0-9]*/environ; do
			tr '\0' '\n' 2>/dev/null <"$f" | grep -qxF "AGENTLAB_JOB=$1" && echo "$f"
		done
		;;
	esac | tr -cd '0-9\n'
}

# slay kills all of job $1: its process group, and what left that, which is known
# by its cgroup or, where there are none, by its environment.
slay() {
	leader='' round=0
	[ -s "$spool/$1/end" ] || { [ -s "$spool/$1/about" ] && read -r leader <"$spool/$1/about"; }
	case $leader in '' | 0* | 1 | *[!0-9]*) leader='' ;; esac # the job's user may have written it
	while [ $round -lt 100 ]; do
		round=$((round + 1))
		found=''
		[ "$leader" ] && kill -KILL "-$leader" 2>/dev/null
		for pid in $(grouped "$1"; marked "$1"); do
			kill -KILL "$pid" 2>/dev/null && found=1
		done
		[ "$found" ] || return 0
	done
}

# grouped prints the processes in the cgroup of job $1. Newer kernels kill them.
grouped() {
	[ "$cg" ] && [ -e "$cg/$1" ] || return
	if [ -e "$cg/$1/cgroup.kill" ]; then echo 1 >"$cg/$1/cgroup.kill"; else cat "$cg/$1/cgroup.procs"; fi
}

# leave moves us out of the agent's cgroup, since what restarts the agent kills
# all in it, and makes one for the command, job $key.
leave() {
	case $cg$has in /*) ;; *systemd*) scope; return ;; *) return ;; esac
	for g in "$cg"/[rk]_*; do # of what went on in the background when its command had ended
		[ -e "$spool/${g##*/}" ] || ! [ -d "$g" ] || rmdir "$g"
	done
	mkdir "$cg/$key" && echo $$ >"$cg/cgroup.procs"
} 2>/dev/null

# scope has systemd do what we can't where the agent's unit is confined, such as
# by ProtectControlGroups; delegated, so that running out of memory ends only the
# command. Systemd answers before it has moved us, and moves no child of ours.
scope() {
	busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager \
		StartTransientUnit 'ssa(sv)a(sa(sv))' "agentlab-$key.scope" fail \
		3 PIDs au 1 $$ Delegate b true CollectMode s inactive-or-failed 0 </dev/null >/dev/null || return
	nap=0
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		grep -qF "agentlab-$key.scope" /proc/$$/cgroup && return
		doze
	done
}

# clock sets $clock to hundredths of a second since boot.
clock() {
	read -r clock _ </proc/uptime
	clock=${clock%.*}${clock#*.}
}

# pack leaves its input in the file $tmp/$1, compressed if this guest can, and
# sets $packed to its size there if it is, else to 0.
pack() {
	packed=0
	case $has in
	*gzip*)
		gzip -1 >"$tmp/$1"
		packed=$(wc -c <"$tmp/$1")
		;;
	*) cat >"$tmp/$1" ;;
	esac
}

# unpack prints what was uploaded as $1, in the form $2: raw or gzip.
unpack() {
	if [ "$2" = gzip ]; then cat "$tmp/$1".0* | gzip -dc; else cat "$tmp/$1".0*; fi
}

# sweep removes what a session left that was dropped: what nobody has touched in
# ten minutes. It goes on while there is anything.
# shellcheck disable=SC2016 # another shell's
sweep() {
	[ -z "$cg" ] || echo 0 >"$cg/cgroup.procs"
	while :; do
		sleep 60
		for f in $(find "$tmp" -name '*.real' -mmin +10); do # of a file that was being written
			key=${f##*/} u=''
			key=${key%.real}
			read -r u <"$tmp/$key.user"
			(become "$u" /bin/sh -c 'real=$(cat; echo .); rm -f -- "${real%/*}/.agentlab-$1"' agentlab-sweep "$key") <"$f"
		done
		find "$tmp" -mindepth 1 -maxdepth 1 ! -name sweeper -mmin +10 -exec rm -rf {} +
		for f in $(find $spool -maxdepth 1 -name 'r_*' -mmin +10); do # of a command that has ended
			u=''
			read -r u <"$f/supervisor"
			kill -0 "${u:-x}" || rm -rf "$f"
		done
		set -- "$tmp"/* $spool/r_*
		[ $# -gt 2 ] || [ -e "$2" ] || break
	done
	rm -f "$tmp/sweeper"
}

prepare
sweeper=''
[ -s "$tmp/sweeper" ] && read -r sweeper <"$tmp/sweeper"
if [ -z "$sweeper" ] || ! kill -0 "$sweeper" 2>/dev/null; then
	(sweep) </dev/null >/dev/null 2>&1 & # in parentheses, or the shell keeps what it replaces
	echo $! >"$tmp/sweeper"
fi
# What earlier calls left to be removed.
# shellcheck disable=SC2086 # they are words
case ${1-} in ?*) (cd "$tmp" && rm -rf $1) </dev/null >/dev/null 2>&1 & ;; esac
