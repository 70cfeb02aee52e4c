# fetch LITTER KEY OFFSET MAX WAIT PIECE
#
# Describes the command KEY of mode keep, and returns up to MAX bytes of its
# log from OFFSET on (negative: from the end), waiting for some or the end for
# WAIT hundredths of a second. More than a little is left in the file $tmp/PIECE.
off=$3 max=$4 wait=$5 nap=0
cd "$spool/$2" 2>/dev/null || { echo none=1; exit 0; }

# look reads the state; who writes it does so with one write, but empties it first.
look() {
	first=''
	while [ -z "$first" ]; do
		[ -e state ] || return 1
		read -r total o e first <state
	done
}

clock
until=$((clock + wait))
while :; do
	alive=1 super=''
	[ -s supervisor ] && read -r super <supervisor
	kill -0 "${super:-1}" 2>/dev/null || alive=0
	ended=0
	[ -s end ] && ended=1
	if look; then
		[ "$off" -lt 0 ] && off=$((total + off))
		[ "$off" -lt "$first" ] && off=$first
		[ "$off" -gt "$total" ] && [ $ended = 1 ] && off=$total
		[ "$off" -lt "$total" ] && break
	fi
	[ $ended$alive = 01 ] || break
	clock
	[ "$clock" -ge $until ] && break
	doze
done
n=0 end='' began='' packed=0 was=''
if [ "$first" ] && [ "$max" -gt 0 ]; then
	# The log may be cut while we open it: then its beginning changes.
	until [ "$was" = "$first" ] && [ "$was" ]; do
		was=$first
		exec 5<log
		look
	done
	[ "$off" -lt "$first" ] && off=$first
	n=$((total - off))
	[ $n -lt 0 ] && n=0
	[ $n -gt "$max" ] && n=$max
fi
state='' why=''
if [ -s start ]; then { read -r state; read -r why; } <start; fi
if [ $ended = 1 ]; then
	read -r end <end
elif [ $alive = 0 ]; then # whoever killed its supervisor
	ended=1 end='code=137 sig=9'
fi
[ -e began ] && read -r began <began
id=$(readlink "$spool/$2") || id=$2
data() { dd bs=65536 iflag=skip_bytes,fullblock skip=$((off - first)) count=$((n / 65536 + 1)) 2>/dev/null <&5 | head -c $n; }
[ $n -gt $inline ] && { data >"$tmp/$6.raw"; pack "$6" <"$tmp/$6.raw"; rm "$tmp/$6.raw"; }
clock
echo "id=$id ended=$ended start=$state $end $began now=$clock total=${total-0} out=${o-0} err=${e-0} first=${first:-0} offset=$off n=$n gz=$packed why=$why"
[ $n -gt 0 ] && [ $n -le $inline ] && data
exit 0
