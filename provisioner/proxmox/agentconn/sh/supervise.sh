# supervise LITTER KEY MODE USER LOGIN TIMEOUT CLIP STDIN TTY LENGTH FORM TERM ROWS COLS COMMAND
#
# Runs one command, keeps its output and records how it ended; it is what the
# agent starts, so that the command does not begin with signals ignored, as
# what a shell starts in the background does.
#
# MODE is run (the output is pulled while it runs, and waits for that) or keep
# (the latest of it is kept in one log). Standard input is the command as shell
# words, LENGTH bytes, and then what the command gets to read; if FORM is not
# none it was uploaded instead. COMMAND is its name for people, in base64.
# STDIN is none, once or open. LOGIN, unless it is empty, may only be USER.
shift
key=$1 mode=$2 user=$3 login=$4
shift 4
timeout=$1 clip=$2 stdin=$3 tty=$4 length=$5 form=$6 term=$7 rows=$8 cols=$9
shift 9
command=$1
maxlog=67108864 maxended=256 segment=4194304 ahead=4

# enter makes the job's directory. Those of mode keep have a number for ever.
enter() {
	d=$spool/$key
	if [ "$mode" = run ]; then
		mkdir "$d" 2>/dev/null || return 1
	else
		claim "$tmp/$key.begun" || return 1
		n=1
		[ -e $spool/next ] && read -r n <$spool/next
		until mkdir "$spool/p_$n" 2>/dev/null; do n=$((n + 1)); done
		# In one piece: others read it at the same time.
		echo $((n + 1)) >"$spool/next.$$" && mv "$spool/next.$$" $spool/next
		d=$spool/p_$n
		ln -s "p_$n" "$spool/$key"
	fi
	cd "$d" || exit 1
	echo "$key" >key
	echo $$ >supervisor
}

# payload takes the command apart from its input.
payload() {
	if [ "$form" = none ]; then
		[ "$stdin" = none ] && cat >cmd && return
		cat >input
	else
		unpack "$key" "$form" >input
		rm -f "$tmp/$key".0*
	fi
	mkdir in
	head -c "$length" input >cmd
	tail -c +$((length + 1)) input >in/0
	rm input
}

# pump_run NAME stores what comes out of the fifo NAME.f in segments, of which a
# few may wait to be pulled. One dd does it as long as the stream is in spate.
pump_run() {
	seg=0 reads=0 count=1
	while :; do
		dd bs=65536 count=$count 2>"$1.dd" >>"$1.$seg" || { full; break; }
		told "$1.dd"
		n=$((whole + parts))
		if [ $n -lt $count ]; then # it is the end, but marks may have come before
			[ -e ended ] && trim "$1.$seg"
			break
		fi
		if [ -e ended ]; then
			count=1
			trim "$1.$seg" && break
			continue
		fi
		if [ "$whole" -lt $count ]; then count=1; elif [ $count -lt 16 ]; then count=$((count * 2)); fi
		reads=$((reads + n))
		if [ $reads -ge 32 ]; then
			reads=0
			[ "$(wc -c <"$1.$seg")" -lt $segment ] || rotate "$1"
		fi
	done <"$1.f"
	n=0
	if [ $seg -gt 0 ]; then n=$segment; elif [ -s "$1.0" ]; then n=$(wc -c <"$1.0"); fi
	echo "$n" >"$1.end" # how much there was, if it is little
}

# told reads what a dd said: how many whole blocks and parts of one it read.
told() {
	while read -r a b c; do
		case "$b $c" in "records in"*) whole=${a%+*} parts=${a#*+} ;; esac
	done <"$1"
}

rotate() {
	seg=$((seg + 1)) nap=0
	: >"$1.$seg"
	while [ -e "$1.$((seg - ahead))" ]; do doze; done
}

# pump_keep NAME NUMBER appends to the log, which both streams share in turn: fd
# 8 holds a newline when it is nobody's. It also keeps the beginning and the end
# of the stream by itself, for who waits for the command.
pump_keep() {
	kept=0
	while :; do
		dd bs=65536 count=1 2>"$1.dd" >"$1.part" || { full; break; }
		told "$1.dd"
		[ "$whole$parts" = 00 ] && break
		n=65536 last=''
		[ "$parts" = 0 ] || n=$(wc -c <"$1.part")
		if [ -e ended ] && trim "$1.part"; then
			n=$(wc -c <"$1.part")
			last=1
		fi
		[ "$n" -gt 0 ] && store "$1" "$2"
		[ "$last" ] && break
	done <"$1.f"
	rm -f "$1.part"
	: >"$1.end"
}

# trim cuts the mark of the end off a file, and what comes after it.
trim() {
	line=$(grep -naxF "$key" "$1") || return 1
	n=$(head -n $((${line%%:*} - 1)) "$1" | wc -c)
	head -c $((n - 1)) "$1" >"$1.cut" # the mark begins with a newline
	mv "$1.cut" "$1"
}

# full ends a command when there is no room for its output.
full() {
	: >full
	slay "$key"
}

store() {
	read -r _ <&8
	read -r total o e first <state
	if [ "$clip" -gt 0 ]; then tee -a "$1.0" <"$1.part" >>log; else cat "$1.part" >>log; fi || full
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
	trap 'kill $pause 2>/dev/null; exit' TERM
	grep '^oom_kill ' /proc/vmstat >oom
	if [ "$mode" = keep ]; then
		[ "$timeout" = 0 ] && exit
		sleep "$timeout" &
		pause=$!
		wait $pause
		trap '' TERM # to slay all, also when the first of them is missed
		: >timedout
		slay "$key"
		exit
	fi
	while :; do
		sleep 60 &
		pause=$!
		wait $pause
		rm beat 2>/dev/null || break
	done
	trap '' TERM # which we get when the command has ended
	slay "$key"
	# shellcheck disable=SC2086 # they are numbers
	kill -KILL $pumps
	nap=0 round=0
	while kill -0 $$ 2>/dev/null && [ $((round += 1)) -le 50 ]; do doze; done # it ends what it started
	kill -KILL $$
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

# launch turns into the command, as the leader of a new session.
# shellcheck disable=SC2016 # another shell's
launch() {
	export AGENTLAB_JOB="$key" AGENTLAB_LC="$lc" AGENTLAB_STAGE="$stage"
	export AGENTLAB_TTY="$tty" AGENTLAB_TERM="$term" AGENTLAB_ROWS="$rows" AGENTLAB_COLS="$cols"
	u=${user:-root}
	eval "HOME=~$u"
	export HOME USER="$u" LOGNAME="$u" SHELL=/bin/sh
	unset SHLVL
	set -- /bin/sh -c 'eval "$AGENTLAB_STAGE"'
	if [ "$tty" ]; then set -- script -qefc 'eval "$AGENTLAB_STAGE"' /dev/null; fi
	case $has in *signals*) set -- env --default-signal "$@" ;; esac
	cd / && umask 022
	[ -z "$cg" ] || { echo 0 >"$cg/$key/cgroup.procs"; } 2>/dev/null
	become "$user" setsid "$@"
}

# mark ends the streams when others hold them open: with a line that nobody
# else knows, again and again until it is seen.
mark() {
	trap 'kill $pause 2>/dev/null; exit' TERM
	nap=5
	until [ -e out.end ] && [ -e err.end ]; do
		sleep "0.0$nap" &
		pause=$!
		wait $pause
		nap=$((nap < 9 ? nap + 1 : 9))
		for s in out err; do
			[ -e $s.end ] || printf '\n%s\n' "$key" 1<>$s.f
		done
	done
}

# forget removes the oldest of those that ended, to have room for this one.
forget() {
	set -- "$spool"/p_*/end
	[ $# -lt $maxended ] && return
	for f in $(printf '%s\n' "$@" | sort -t_ -k2n | head -n $(($# - maxended + 1))); do
		f=${f%/end}
		read -r k <"$f/key" && rm -f "${spool:?}/$k" "${tmp:?}/$k.begun"
		rm -rf "$f"
	done
}

# finish records how it ended: a signal shows only in what the shell says of
# it, on the standard error of its own; of INT and PIPE it says nothing.
finish() {
	sig=0 oomed=0 timed=0 isfull=0
	if [ "$code" -gt 128 ]; then
		case $code in 130 | 141) sig=$((code - 128)) ;; *) [ -s said ] && sig=$((code - 128)) ;; esac
	fi
	[ -e timedout ] && timed=1
	[ -e full ] && isfull=1
	if [ $sig = 9 ] && [ $timed$isfull = 00 ] && ! [ -e killed ] && [ -s oom ]; then
		[ "$(grep '^oom_kill ' /proc/vmstat)" = "$(cat oom)" ] || oomed=1
	fi
	[ "$mode" = keep ] && forget
	clock
	echo "code=$code sig=$sig timedout=$timed full=$isfull oom=$oomed duration=$((clock - begun))" >end
}

# report prints what is known, and all output if it is little.
report() {
	read -r end <end
	state='' why='' outn=0 errn=0 whole=0
	if [ -s start ]; then { read -r state; read -r why; } <start; fi
	if [ "$mode" = run ]; then
		read -r outn <out.end
		read -r errn <err.end
	else
		read -r total outn errn first <state
	fi
	if [ $((outn + errn)) -le $inline ] && { [ "$mode" = run ] || [ "$clip" -gt 0 ]; }; then whole=1; fi
	echo "ended=1 id=${d##*/} start=$state $end $began took=$took whole=$whole outn=$outn errn=$errn total=${total-0} out=$outn err=$errn first=${first-0} why=$why"
	[ $whole = 1 ] || return 0
	set --
	for f in out.0 err.0; do [ -s $f ] && set -- "$@" $f; done
	[ $# = 0 ] || cat "$@"
}

# sorry ends what can't begin.
sorry() {
	echo "$1" >start
	echo "code=127 sig=0" >end
	echo 0 >out.end
	echo 0 >err.end
	[ "$mode" = run ] || echo 0 0 0 0 >state
	report
	exit 0
}

enter || { echo again=1; exit 0; }
[ -e "$tmp/$key.dead" ] && exit 0 # cancelled before it began
leave
clock
began='' begun=$clock took=0
if [ "$mode" = keep ]; then
	chmod 711 .
	began="started=$(date +%s) begun=$begun command=$command"
	echo "$began" >began
fi
if [ "$user" ]; then
	id -u "$user" >/dev/null 2>&1 || sorry user
	case $login in '' | "$user") ;; *) sorry denied ;; esac
	case $has in *setpriv* | *su* | *start-stop-daemon*) ;; *) sorry become ;; esac
fi
case $tty$has in 1*script*) ;; 1*) sorry tty ;; esac
exec 6>&1 >/dev/null 2>/dev/null
payload
set -- out.f err.f
[ "$stdin" = none ] || set -- "$@" in.f nf
mkfifo "$@"
[ -z "$user" ] || chown "$user" ./*.f
[ "$stdin" = none ] || exec 9<>nf
if [ "$mode" = keep ]; then
	: >log
	[ -z "$user" ] || chown "$user" log
	echo 0 0 0 0 >state
	mkfifo lock
	exec 8<>lock
	echo >&8
fi
# Both ends of a fifo wait for each other when they are opened.
(exec 6>&- 9>&- && "pump_$mode" out 1) &
pumps=$!
(exec 6>&- 9>&- && "pump_$mode" err 2) &
pumps="$pumps $!"
(exec 6>&- 8>&- 9>&- && guard) &
guard=$!
feeder='' input=/dev/null
if [ "$stdin" != none ]; then
	(exec 6>&- 8>&- >in.f && feed) &
	feeder=$! input=in.f
fi
: >said
exec 2>said
clock
launched=$clock
# A new session, whose leader's number is also that of its process group.
(
	exec 6>&- 8>&- 9>&-
	launch <$input >out.f 2>err.f 3<cmd 4>start 5>about
)
code=$?
clock
took=$((clock - launched))
: >ended
(exec 6>&- 8>&- 9>&- && mark) &
marker=$!
# shellcheck disable=SC2086 # they are numbers
wait $pumps
# shellcheck disable=SC2086
kill "$marker" $feeder 2>/dev/null
if [ -e timedout ]; then wait "$guard"; else kill "$guard" 2>/dev/null; fi
if [ "$user" ] && ! [ -s start ] && ! (become "$user" true); then echo denied >start; fi
finish
[ -z "$cg" ] || rmdir "$cg/$key" 2>/dev/null
report >&6
