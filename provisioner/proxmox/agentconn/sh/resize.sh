# resize LITTER KEY ROWS COLS
cd "$spool/$2" && { read -r _; read -r tty; } <about && stty -F "$tty" rows "$3" cols "$4"
