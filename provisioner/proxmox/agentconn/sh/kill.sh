# kill LITTER KEY FORGET
#
# Ends the command KEY and all that it started, also if it is yet to begin.
key=$2 nap=0 tries=0
: >"$tmp/$key.dead"
cd "$spool/$key" 2>/dev/null || exit 0
: >killed
slay "$key"
if [ "$3" = 0 ]; then # it may be about to begin
	until [ -s end ] || [ $((tries += 1)) -gt 50 ]; do
		doze
		slay "$key"
	done
	exit 0
fi
# Its supervisor goes on until all output is pulled, which nobody will do.
read -r super <supervisor 2>/dev/null && for f in /proc/[0-9]*/stat; do
	read -r pid _ _ up _ 2>/dev/null <"$f"
	[ "$up" = "$super" ] && kill -KILL "$pid"
done
[ "$super" ] && kill -KILL "$super"
slay "$key"
cd / && rm -rf "${spool:?}/$key" "${tmp:?}/$key".0*
exit 0
