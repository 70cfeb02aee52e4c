# resize LITTER KEY ROWS COLS
cd "$spool/$2" || exit 0
nap=0 tty=''
while :; do # it may be just starting
	if [ -e about ]; then { read -r _; read -r tty; } <about; fi
	[ "$tty" ] || [ -s end ] && break
	doze
done
[ -z "$tty" ] || stty rows "$3" cols "$4" <"$tty"
