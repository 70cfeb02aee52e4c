#!/bin/sh
# AgentLab makes a template of this machine. cloud-init runs this once, as root.
dir=/run/agentlab-template
mkdir -p "$dir"
: >"$dir/log"

# say leaves what came of it where AgentLab looks for it, in one piece.
say() {
	echo "AgentLab: $*"
	echo "$*" >"$dir/new" && mv "$dir/new" "$dir/result"
}

# Without an agent nobody can ask what failed. That the machine is off is seen.
failed() {
	say "failed: $1
$(tail -n 20 "$dir/log")"
	systemctl is-active --quiet qemu-guest-agent && exit 1
	sync
	poweroff
	exit 1
}

step() {
	echo "AgentLab: $*"
	"$@" >>"$dir/log" 2>&1 </dev/null || failed "$*"
}

export DEBIAN_FRONTEND=noninteractive
command -v apt-get >/dev/null || failed 'the image has no apt-get; it must be of Debian or Ubuntu'
# A clone without a network card would wait two minutes for a link before its
# agent may start.
wait=/etc/systemd/system/systemd-networkd-wait-online.service.d
mkdir -p "$wait" && printf '[Unit]\nConditionPathExistsGlob=/sys/class/net/e*\n' >"$wait/agentlab.conf"
step apt-get -q -o Acquire::Retries=3 -o APT::Update::Error-Mode=any update
step apt-get -q -y --no-install-recommends -o Acquire::Retries=3 -o DPkg::Lock::Timeout=600 install qemu-guest-agent @PACKAGES@
systemctl enable qemu-guest-agent >>"$dir/log" 2>&1 # where it is not static
step systemctl start qemu-guest-agent
say ok
