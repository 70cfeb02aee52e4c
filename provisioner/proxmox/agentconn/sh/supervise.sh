# supervise LITTER KEY MODE USER TIMEOUT CLIP STDIN TTY LENGTH PIECES TERM ROWS COLS COMMAND
#
# Runs one command, keeps its output and records how it ended; it is what the
# agent starts, so that the command does not begin with signals ignored, as
# what a shell starts in the background does.
#
# MODE is run (the output is pulled while it runs, and waits for that) or keep
# (the latest of it is kept in one log). Standard input is the command as shell
# words, LENGTH bytes, and then what the command gets to read; with PIECES it
# is in $spool/tmp/KEY.* instead. COMMAND is its name for people, in base64.
# STDIN is none, once or open.
shift
key=$1 mode=$2 user=$3 timeout=$4 clip=$5 stdin=$6 tty=$7 length=$8 pieces=$9
shift 9
term=$1 rows=$2 cols=$3 command=$4
maxlog=67108864 maxended=256 segment=4194304 ahead=4

# enter makes the job's directory. Those of mode keep have a number for ever.
enter() {
	if [ "$mode" = run ]; then
		d=$spool/$key
		mkdir "$d" || exit 1
	else
		n=1
		[ -e $spool/next ] && read -r n <$spool/next
		until mkdir "$spool/p_$n" 2>/dev/null; do n=$((n + 1)); done
		echo $((n + 1)) >$spool/next
		d=$spool/p_$n
		chmod 711 "$d"
		ln -s "p_$n" "$spool/$key"
	fi
	cd "$d" || exit 1
	echo "$key" >key
	echo $$ >supervisor
}

# payload takes the command apart from its input.
payload() {
	if [ "$pieces" = 1 ]; then
		cat "$spool/tmp/$key".* >input
		rm -f "$spool/tmp/$key".*
	else
		cat >input
	fi
	mkdir in
	if [ "$stdin" = none ]; then
		mv input cmd
	else
		head -c "$length" input >cmd
		tail -c +$((length + 1)) input >in/0
		rm input
	fi
}

# pump NAME NUMBER stores what comes out of the fifo NAME.f. The end of the
# command is a mark in the stream, written when it ended: others may hold the
# fifo open.
pump() {
	seg=0 size=0 last='' kept=0
	echo 0 0 >"$1.at"
	while [ -z "$last" ]; do
		r=$(dd bs=65536 count=1 2>&1 >>"$1.part")
		if [ -e ended ]; then
			trim "$1" || continue
			last=1
		else
			# shellcheck disable=SC2086 # "N bytes copied" follows "records out"
			set -- "$1" "$2" ${r##*out}
			n=$3
		fi
		[ "$n" -gt 0 ] && "store_$mode" "$1" "$2"
		: >"$1.part"
	done <"$1.f"
	: >"$1.end"
}

# trim cuts the mark off, and what comes after it.
trim() {
	line=$(grep -naxF "$key" "$1.part") || return 1
	head -n $((${line%%:*} - 1)) "$1.part" >"$1.cut"
	n=$(($(wc -c <"$1.cut") - 1)) # the mark begins with a newline
	head -c "$n" "$1.cut" >"$1.part"
}

# store_run appends to segments, of which a few may wait to be pulled.
store_run() {
	if [ $size -ge $segment ]; then
		seg=$((seg + 1)) size=0 nap=0
		while [ -e "$1.$((seg - ahead))" ]; do doze; done
	fi
	cat "$1.part" >>"$1.$seg" || slay "$key" # the disk is full
	size=$((size + n))
	echo "$seg $size" >"$1.at"
}

# store_keep appends to the log, which both streams share in turn: fd 8 holds a
# newline when it is nobody's. It also keeps the beginning and the end of the
# stream by itself, for who waits for the command.
store_keep() {
	read -r _ <&8
	read -r total o e first <state
	if [ "$clip" -gt 0 ]; then tee -a "$1.0" <"$1.part" >>log; else cat "$1.part" >>log; fi || slay "$key"
	total=$((total + n))
	if [ "$2" = 1 ]; then o=$((o + n)); else e=$((e + n)); fi
	if [ $((total - first)) -gt $maxlog ]; then
		tail -c $((maxlog / 2)) log >log.new
		[ -z "$user" ] || chown "$user" log.new
		echo "$total $o $e $((total - maxlog / 2))" >state
		mv log.new log
	else
		echo "$total $o $e $first" >state
	fi
	echo >&8
	kept=$((kept + n))
	if [ "$clip" -gt 0 ] && [ $kept -gt $((2 * clip + 1048576)) ]; then
		[ -e "$1.head" ] || head -c "$clip" "$1.0" >"$1.head"
		tail -c "$clip" "$1.0" >"$1.new"
		mv "$1.new" "$1.0"
		kept=$clip
	fi
}

# feed gives the command what is in in/, when told of it on the fifo nf.
feed() {
	[ -s in/0 ] && cat in/0
	rm -f in/0
	[ "$stdin" = once ] && return
	while read -r name <&9; do
		[ "$name" = eof ] && return
		cat "in/$name"
		rm -f "in/$name"
	done
}

# guard kills the command after its timeout. One whose output is pulled is also
# killed when nobody has asked for any in a minute: then we are gone.
guard() {
	trap 'kill $pause; exit' TERM
	if [ "$mode" = keep ]; then
		sleep "$timeout" &
		pause=$!
		wait $pause
		: >timedout
		slay "$key"
		return
	fi
	while :; do
		sleep 60 &
		pause=$!
		wait $pause
		rm beat 2>/dev/null || break
	done
	slay "$key"
	# shellcheck disable=SC2086 # they are numbers
	kill -KILL $pumps $$
	rm -rf "$d"
}

# stage is the command before it is itself: 3 is its words, 4 takes what is
# wrong with them. It becomes the user first.
# shellcheck disable=SC2016 # another shell's
stage='
eval "$(cat <&3)"
exec 3<&-
no() { printf "%s\n" "$@" >&4; exit 127; }
echo $$ >&5
if [ "$AGENTLAB_TTY" ]; then
	stty rows "$AGENTLAB_ROWS" cols "$AGENTLAB_COLS"
	tty >&5
	export TERM="$AGENTLAB_TERM"
fi
case $dir in ?*) cd -- "$dir" 2>/dev/null || no dir ;; *) cd 2>/dev/null || cd / ;; esac
unset AGENTLAB_STAGE AGENTLAB_TTY AGENTLAB_ROWS AGENTLAB_COLS AGENTLAB_TERM OLDPWD
[ "$AGENTLAB_LC" ] && export LC_ALL="$AGENTLAB_LC" || unset LC_ALL
unset AGENTLAB_LC
environment
case $1 in
*/*) [ -e "$1" ] || [ -h "$1" ] || no command "not found"
	[ -f "$1" ] || no command "is not a file"
	[ -x "$1" ] || no command "permission denied" ;;
*)	found= denied= IFS=:
	for p in $PATH; do
		p=${p:-.}/$1
		[ -f "$p" ] || continue
		[ -x "$p" ] && found=1 && break
		denied=1
	done
	unset IFS
	[ "$found" ] || no command "${denied:+permission denied}" ;;
esac
echo ok >&4
exec "$@" 4>&- 5>&-'

# ignored says whether signal 13, PIPE, is: systemd starts services so, and no
# shell can take that back.
pipe_ignored() {
	while read -r k v; do
		[ "$k" = SigIgn: ] && break
	done </proc/self/status
	v=${v%???}
	case $v in *[13579bdf]) env --default-signal=PIPE true 2>/dev/null ;; *) false ;; esac
}

# launch turns into the command, as the leader of a new session.
# shellcheck disable=SC2016 # another shell's
launch() {
	export AGENTLAB_JOB="$key" AGENTLAB_LC="$lc" AGENTLAB_STAGE="$stage"
	export AGENTLAB_TTY="$tty" AGENTLAB_TERM="$term" AGENTLAB_ROWS="$rows" AGENTLAB_COLS="$cols"
	u=${user:-$(id -un)}
	eval "HOME=~$u"
	export HOME USER="$u" LOGNAME="$u" SHELL=/bin/sh
	unset SHLVL
	set -- /bin/sh -c 'eval "$AGENTLAB_STAGE"'
	if [ "$tty" ]; then set -- script -qefc 'eval "$AGENTLAB_STAGE"' /dev/null; fi
	if pipe_ignored; then set -- env --default-signal=PIPE "$@"; fi
	cd /
	become "$user" setsid "$@"
}

oom_kills() {
	oom=0
	while read -r k v; do
		[ "$k" = oom_kill ] && oom=$v && return
	done </proc/vmstat
}

# forget removes the oldest of those that ended, to have room for this one.
forget() {
	set -- "$spool"/p_*/end
	[ $# -lt $maxended ] && return
	for f in $(printf '%s\n' "$@" | sort -t_ -k2n | head -n $(($# - maxended + 1))); do
		f=${f%/end}
		read -r k <"$f/key" && rm -f "${spool:?}/$k"
		rm -rf "$f"
	done
}

# finish records how it ended: a signal shows only in what the shell says of
# it, on the standard error of its own; of INT and PIPE it says nothing.
finish() {
	sig=0
	if [ "$code" -gt 128 ]; then
		case $code in 130 | 141) sig=$((code - 128)) ;; *) [ -s said ] && sig=$((code - 128)) ;; esac
	fi
	oomed=0
	if [ $sig = 9 ] && ! [ -e timedout ] && ! [ -e killed ]; then
		oom0=$oom
		oom_kills
		[ "$oom" != "$oom0" ] && oomed=1
	fi
	timed=0
	[ -e timedout ] && timed=1
	[ "$mode" = keep ] && forget
	echo "code=$code sig=$sig timedout=$timed oom=$oomed duration=$(($(uptime) - begun))" >end.new
	mv end.new end
}

# report prints what is known, and all output if it is little.
report() {
	read -r end <end
	why=''
	outn=0 errn=0 whole=0
	state=''
	if [ -e start ]; then { read -r state; read -r why; } <start; fi
	[ -e out.0 ] && outn=$(wc -c <out.0)
	[ -e err.0 ] && errn=$(wc -c <err.0)
	if [ $((outn + errn)) -le $inline ] && ! [ -e out.1 ] && ! [ -e err.1 ]; then whole=1; fi
	[ "$mode" = run ] || read -r total o e first <state
	echo "ended=1 id=${d##*/} start=$state $end started=$started command=$command whole=$whole outn=$outn errn=$errn total=${total-0} out=${o-0} err=${e-0} first=${first-0} why=$why"
	[ $whole = 1 ] || return 0
	for f in out.0 err.0; do [ -e $f ] && cat $f; done
}

if [ -e "$spool/tmp/$key.dead" ]; then exit 0; fi # cancelled before it began
if [ "$user" ] && ! id -u "$user" >/dev/null 2>&1; then
	cat >/dev/null
	rm -f "$spool/tmp/$key".*
	echo "ended=1 start=user"
	exit 0
fi
exec 6>&1 >/dev/null 2>/dev/null
enter
payload
started=$(date +%s) begun=$(uptime)
echo "started=$started begun=$begun command=$command" >began
oom_kills
mkfifo out.f err.f in.f nf
[ -z "$user" ] || chown "$user" out.f err.f in.f
exec 3<>out.f 4<>err.f 9<>nf
if [ "$mode" = keep ]; then
	: >log
	[ -z "$user" ] || chown "$user" log
	echo 0 0 0 0 >state
	mkfifo lock
	exec 8<>lock
	echo >&8
fi
pump out 1 3<&- 4>&- 6>&- 9>&- &
pumps=$!
pump err 2 3<&- 4>&- 6>&- 9>&- &
pumps="$pumps $!"
feeder='' guard=''
if [ "$stdin" != none ]; then
	feed >in.f 3<&- 4>&- 6>&- 8>&- &
	feeder=$!
fi
if [ "$mode" = run ] || [ "$timeout" != 0 ]; then
	guard 3<&- 4>&- 6>&- 8>&- 9>&- &
	guard=$!
fi
input=/dev/null
[ "$stdin" = none ] || input=in.f
: >said
exec 2>said
# A new session, whose leader's number is also that of its process group.
(
	exec 6>&- 8>&- 9>&-
	launch <$input >out.f 2>err.f 3<cmd 4>start 5>about
)
code=$?
: >ended
[ -z "$guard" ] || kill "$guard"
printf '\n%s\n' "$key" >&3
printf '\n%s\n' "$key" >&4
# shellcheck disable=SC2086 # they are numbers
wait $pumps
[ -z "$feeder" ] || kill "$feeder"
finish
report >&6
