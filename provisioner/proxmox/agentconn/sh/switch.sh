# shellcheck shell=sh
# Powers this machine off when nobody has armed it anew for as long as arm.sh said.
#
# It runs all the time; what it reads is "ID SECONDS end" in the file armed. Only
# time during which the machine runs counts, by the kernel's clock of that, so that
# it is never early, whatever becomes of the time of day. What is left is noted now
# and then, so that a reboot is no new beginning.
export LC_ALL=C
PATH=${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}
umask 077
dir=${1:-/var/lib/agentlab} # which may be removed and made anew
most=30 # seconds between two looks
read -r boot </proc/sys/kernel/random/boot_id
echo "$boot $$" >"$dir/switch.pid"
id='' deadline=0

# uptime sets $up to the seconds since boot.
uptime() {
	read -r up _ </proc/uptime
	up=${up%.*}
}

# look sets $deadline to when it is time, if it was armed since the last look.
look() {
	new='' seconds='' end=''
	[ -e "$dir/armed" ] && read -r new seconds end <"$dir/armed"
	[ "$end" = end ] && [ "$new" != "$id" ] || return
	id=$new
	was='' left='' end=''
	[ -e "$dir/left" ] && read -r was left end <"$dir/left"
	[ "$was $end" = "$id end" ] && [ "$left" -lt "$seconds" ] && seconds=$left
	deadline=$((up + seconds))
}

while :; do
	uptime
	look
	nap=$most
	if [ "$id" ]; then
		left=$((deadline - up))
		[ $left -gt 0 ] || break
		printf '%s %-10s end\n' "$id" "$left" 1<>"$dir/left"
		[ $left -lt $most ] && nap=$left
	fi
	sleep $nap
done
echo "nobody has come for this sandbox since its end: it is powered off"
poweroff
sleep 120
exec poweroff -f
