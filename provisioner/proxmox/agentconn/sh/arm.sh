# shellcheck shell=sh
# arm LITTER ID SECONDS <SWITCH
#
# Has this guest power itself off when it was not armed anew for so many seconds,
# and again after a reboot where we know how. SWITCH is the text of switch.sh.
prove
set -e
arm "$2" "$3"
read -r is seconds _ <$spool/armed
[ "$is $seconds" = "$2 $3" ] || { echo "$spool/armed holds $is $seconds" >&2; exit 1; }
cat >$spool/switch.new
mv -f $spool/switch.new $spool/switch
run="/bin/sh $spool/switch"

# started says whether one was started since this boot.
started() {
	was='' pid=''
	read -r boot </proc/sys/kernel/random/boot_id
	if [ -e $spool/switch.pid ]; then read -r was pid <$spool/switch.pid; fi
	[ "$was" = "$boot" ] && kill -0 "$pid" 2>/dev/null
}

unit=/etc/systemd/system/agentlab-switch.service
if [ -d /run/systemd/system ]; then
	if ! [ -e $unit ]; then
		umask 022
		cat >$unit <<-EOF
			[Unit]
			Description=Powers this sandbox off when nobody comes for it after its end

			[Service]
			ExecStart=$run
			Restart=always
			RestartSec=30
			OOMScoreAdjust=-900

			[Install]
			WantedBy=multi-user.target
		EOF
		mkdir -p ${unit%/*}/multi-user.target.wants
		ln -sf $unit ${unit%/*}/multi-user.target.wants/
	fi
	systemctl start --no-block ${unit##*/} </dev/null
	exit
fi
if [ -e /etc/inittab ] && ! grep -qF "$run" /etc/inittab; then
	tag='' # of busybox; that of sysvinit has names and runlevels
	if grep -q :initdefault: /etc/inittab; then tag=al:2345; else tag=:; fi
	echo "$tag:once:$run" >>/etc/inittab
fi
if ! started; then
	# In a session of its own: what ends the agent must not end it.
	if command -v setsid >/dev/null; then run="setsid $run"; fi
	$run </dev/null >/dev/null 2>&1 &
fi
