# list LITTER
#
# Describes all commands of mode keep, a line each.
clock
for d in "$spool"/p_*; do
	cd "$d" 2>/dev/null && [ -s state ] || continue
	end='' began='' state='' why='' super='' ended=0
	[ -s supervisor ] && read -r super <supervisor
	kill -0 "${super:-1}" 2>/dev/null || ended=1 end='code=137 sig=9'
	[ -s end ] && ended=1 && read -r end <end
	if [ -s start ]; then { read -r state; read -r why; } <start; fi
	read -r total o e first <state
	[ -e began ] && read -r began <began
	echo "id=${d##*/} ended=$ended start=$state $end $began now=$clock total=${total:-0} out=${o:-0} err=${e:-0} first=${first:-0} why=$why"
done
