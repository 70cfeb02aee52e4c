# control LITTER KEY LENGTH PIECES EOF SIGNAL LIMIT
#
# Gives the command what is on standard input (with PIECES: in $spool/tmp/NAME.*
# for the NAME in PIECES), then the end of it, then a signal.
key=$2 length=$3 pieces=$4 eof=$5 signal=$6 limit=$7
if ! cd "$spool/$key" 2>/dev/null; then
	echo result=none
	exit 0
fi
said() {
	[ "$pieces" = 0 ] || rm -f "$spool/tmp/$pieces".*
	echo "result=$1"
	exit 0
}
[ -e end ] && said exited
if [ "$length" -gt 0 ]; then
	[ -e about ] || said none # it is just starting
	[ -d in ] || said exited
	# shellcheck disable=SC2012 # our own names
	pending=$(ls -ln in | { s=0; while read -r _ _ _ _ size _; do s=$((s + ${size:-0})); done; echo $s; })
	if [ "$pending" -gt 0 ] && [ $((pending + length)) -gt "$limit" ]; then said busy; fi
	n=1
	[ -e fed ] && read -r n <fed
	until mkdir "in/.$n" 2>/dev/null; do n=$((n + 1)); done
	echo $((n + 1)) >fed
	if [ "$pieces" = 0 ]; then cat >"in/$n"; else cat "$spool/tmp/$pieces".* >"in/$n"; fi || said full
	echo "$n" 1<>nf
fi
[ "$eof" = 1 ] && echo eof 1<>nf
if [ "$signal" = KILL ]; then
	: >killed
	read -r mark <key
	slay "$mark"
elif [ "$signal" ] && [ -s about ]; then
	read -r pid <about
	kill -s "$signal" -- "-$pid" 2>/dev/null || said exited
fi
said ok
