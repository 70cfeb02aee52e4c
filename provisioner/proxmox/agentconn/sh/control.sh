# control LITTER KEY LENGTH NAME FORM EOF SIGNAL LIMIT
#
# Gives the command what is on standard input (or was uploaded as NAME, if FORM
# is not none), then the end of it, then a signal.
key=$2 length=$3 name=$4 form=$5 eof=$6 signal=$7 limit=$8
once "$name"
result() {
	rm -f "$tmp/$name".0*
	said "$name" 0 "result=$1"
}
cd "$spool/$key" 2>/dev/null || result none
[ -s end ] && result exited
if [ "$length" -gt 0 ]; then
	[ -e about ] || result none # it is just starting
	[ -d in ] || result exited
	# shellcheck disable=SC2012 # our own names
	pending=$(ls -ln in | { s=0; while read -r _ _ _ _ size _; do s=$((s + ${size:-0})); done; echo $s; })
	if [ "$pending" -gt 0 ] && [ $((pending + length)) -gt "$limit" ]; then result busy; fi
	n=1
	[ -e fed ] && read -r n <fed
	until mkdir "in/.$n" 2>/dev/null; do n=$((n + 1)); done
	echo $((n + 1)) >fed
	if [ "$form" = none ]; then cat >"in/$n"; else unpack "$name" "$form" >"in/$n"; fi || result full
	echo "$n" 1<>nf
fi
[ "$eof" = 1 ] && echo eof 1<>nf
if [ "$signal" = KILL ]; then
	: >killed
	read -r mark <key
	slay "$mark"
elif [ "$signal" ] && [ -s about ]; then
	read -r pid <about
	kill "-$signal" "-$pid" 2>/dev/null || result exited
fi
result ok
