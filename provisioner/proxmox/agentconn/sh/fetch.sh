# fetch LITTER KEY OFFSET MAX WAIT PIECE
#
# Describes the command KEY of mode keep, and returns up to MAX bytes of its
# log from OFFSET on (negative: from the end), waiting for some or the end for
# WAIT hundredths of a second. More than a little is left in the file $spool/tmp/PIECE.
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

until=$(($(uptime) + wait))
while :; do
	ended=0
	[ -e end ] && ended=1
	look || { [ $ended = 0 ] || break; [ "$(uptime)" -ge $until ] && break; doze; continue; }
	[ "$off" -lt 0 ] && off=$((total + off))
	[ "$off" -lt "$first" ] && off=$first
	[ "$off" -gt "$total" ] && [ $ended = 1 ] && off=$total
	[ "$off" -lt "$total" ] && break
	[ $ended = 1 ] && break
	[ "$(uptime)" -ge $until ] && break
	doze
done
n=0 end='' began='' super=''
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
if [ -e start ]; then { read -r state; read -r why; } <start; fi
[ $ended = 1 ] && read -r end <end
[ -e began ] && read -r began <began
[ -e supervisor ] && read -r super <supervisor
id=$(readlink "$spool/$2") || id=$2
echo "id=$id ended=$ended start=$state $end $began now=$(uptime) total=${total-0} out=${o-0} err=${e-0} first=${first:-0} offset=$off n=$n super=$super why=$why"
[ $n -gt 0 ] || exit 0
if [ $n -gt $inline ]; then exec >"$spool/tmp/$6"; fi
dd bs=65536 iflag=skip_bytes,fullblock skip=$((off - first)) count=$((n / 65536 + 1)) 2>/dev/null <&5 | head -c $n
