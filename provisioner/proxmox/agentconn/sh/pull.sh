# pull LITTER KEY OUTSEG OUTOFF ERRSEG ERROFF WAIT PIECE
#
# Returns what a command of mode run wrote from these positions on, waiting for
# some or the end for WAIT hundredths of a second. Segments before them are
# removed. More than a little of a stream is left in $tmp/PIECE.out or .err.
key=$2 wait=$7 piece=$8 nap=0
cd "$spool/$key" 2>/dev/null || { echo gone=1; exit 0; }
: >beat

# look NAME SEG OFF sets seg, off and n of its next piece, and whether it is the last.
look() {
	seg=$2 off=$3 n=0 size=0 last=1 clean=''
	[ -e "$1.end" ] && clean=1 # before we look at the size
	[ -s "$1.$seg" ] && size=$(wc -c <"$1.$seg")
	if [ -e "$1.$((seg + 1))" ]; then
		if [ "$off" -ge "$size" ]; then
			rm -f "$1.$seg"
			look "$1" $((seg + 1)) 0
			return
		fi
		last=0
	elif [ -e ended ] && ! [ "$clean" ]; then
		return # the mark of the end may be in the size
	fi
	n=$((size - off))
}

# piece NAME SEG OFF N prints the piece if it is little.
piece() {
	if [ "$4" -gt 0 ] && [ "$4" -le $inline ]; then tail -c +$(($3 + 1)) "$1.$2" | head -c "$4"; fi
}

# big leaves it in a file if it is not.
big() {
	packed=0
	if [ "$4" -gt $inline ]; then
		tail -c +$(($3 + 1)) "$1.$2" | head -c "$4" >"$tmp/$piece.raw"
		pack "$piece.$1" <"$tmp/$piece.raw"
		rm "$tmp/$piece.raw"
	fi
}

oseg=$3 ooff=$4 eseg=$5 eoff=$6 super='' lost=0
clock
until=$((clock + wait))
while :; do
	[ "$super" ] || { [ -s supervisor ] && read -r super <supervisor; }
	alive=1
	kill -0 "${super:-1}" 2>/dev/null || alive=0
	ended=0
	[ -s end ] && ended=1
	look out "$oseg" "$ooff"
	oseg=$seg ooff=$off on=$n olast=$last
	look err "$eseg" "$eoff"
	eseg=$seg eoff=$off en=$n elast=$last
	[ $((on + en)) -gt 0 ] && break
	[ $ended = 1 ] && break
	[ $alive = 0 ] && lost=1 && break
	clock
	[ "$clock" -ge $until ] && break
	doze
done
why='' state='' end=''
if [ -s start ]; then { read -r state; read -r why; } <start; fi
[ $ended = 1 ] && read -r end <end
big out "$oseg" "$ooff" "$on"
ogz=$packed
big err "$eseg" "$eoff" "$en"
echo "ended=$ended lost=$lost start=$state $end outseg=$oseg outoff=$ooff outn=$on outgz=$ogz outlast=$olast errseg=$eseg erroff=$eoff errn=$en errgz=$packed errlast=$elast why=$why"
piece out "$oseg" "$ooff" "$on"
piece err "$eseg" "$eoff" "$en"
