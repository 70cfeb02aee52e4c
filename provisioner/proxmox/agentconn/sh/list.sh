# list LITTER
#
# Describes all commands of mode keep, a line each.
for d in "$spool"/p_*; do
	cd "$d" 2>/dev/null && [ -e state ] || continue
	end='' began='' state='' why='' ended=0
	[ -e end ] && ended=1 && read -r end <end
	[ -e start ] && { read -r state; read -r why; } <start
	read -r total o e first <state
	[ -e began ] && read -r began <began
	echo "id=${d##*/} ended=$ended start=$state $end $began now=$(uptime) total=${total:-0} out=${o:-0} err=${e:-0} first=${first:-0} why=$why"
done
