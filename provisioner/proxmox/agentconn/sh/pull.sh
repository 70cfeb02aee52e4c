# pull LITTER KEY OUTSEG OUTOFF ERRSEG ERROFF WAIT
#
# Returns what a command of mode run wrote from these positions on, waiting for
# some or the end for WAIT hundredths of a second. Segments before them are removed. A stream
# with more than a little is only announced: it is read as a file.
key=$2 wait=$7 nap=0
cd "$spool/$key" || exit 0
: >beat

[ -s key ] || exit 0 # it is just starting

# look NAME SEG OFF sets seg, off and size of its next piece, and fin.
look() {
	seg=$2 off=$3 size=0 fin=0 a='' b=''
	[ -e "$1.end" ] && fin=1
	[ -e "$1.at" ] && read -r a b <"$1.at"
	[ "$b" ] || { fin=0; return; }
	size=$b
	if [ "$a" -gt "$seg" ]; then size=$(wc -c <"$1.$seg") fin=0; fi
	if [ "$off" -ge "$size" ] && [ "$a" -gt "$seg" ]; then
		rm -f "$1.$seg"
		look "$1" $((seg + 1)) 0
	fi
}

# piece NAME SEG OFF SIZE prints the piece if it is little.
piece() {
	[ $(($4 - $3)) -gt 0 ] && [ $(($4 - $3)) -le $inline ] || return 0
	tail -c +$(($3 + 1)) "$1.$2" | head -c $(($4 - $3))
}

oseg=$3 ooff=$4 eseg=$5 eoff=$6
until=$(($(uptime) + wait))
while :; do
	ended=0
	[ -e end ] && ended=1
	look out "$oseg" "$ooff"
	oseg=$seg ooff=$off osize=$size oend=$fin
	look err "$eseg" "$eoff"
	eseg=$seg eoff=$off esize=$size eend=$fin
	[ $((osize - ooff + esize - eoff)) -gt 0 ] && break
	[ "$ended$oend$eend" = 111 ] && break
	[ "$(uptime)" -ge $until ] && break
	doze
done
why='' state='' end=''
if [ -e start ]; then { read -r state; read -r why; } <start; fi
[ $ended = 1 ] && read -r end <end
echo "ended=$ended start=$state $end outseg=$oseg outoff=$ooff outsize=$osize outend=$oend errseg=$eseg erroff=$eoff errsize=$esize errend=$eend why=$why"
piece out "$oseg" "$ooff" "$osize"
piece err "$eseg" "$eoff" "$esize"
