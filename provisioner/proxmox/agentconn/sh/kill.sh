# kill LITTER KEY FORGET
#
# Ends the command KEY and all that it started, also if it is yet to begin.
key=$2
if ! [ -e "$spool/$key" ]; then : >"$spool/tmp/$key.dead"; fi
cd "$spool/$key" 2>/dev/null && : >killed
slay "$key"
[ "$3" = 1 ] || exit 0
# Its supervisor goes on until all output is pulled, which nobody will do.
read -r super <supervisor 2>/dev/null && for f in /proc/[0-9]*/stat; do
	read -r pid _ _ up _ 2>/dev/null <"$f"
	[ "$up" = "$super" ] && kill -KILL "$pid"
done
[ "$super" ] && kill -KILL "$super"
cd / && rm -rf "${spool:?}/$key" "$spool/tmp/$key".[0-9]*
