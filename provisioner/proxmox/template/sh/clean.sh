# What no two machines may share, and what only the build needed, goes. It can
# be done again. /run goes with the machine.
set -u
exec 9>/run/agentlab-clean && flock 9 # one after the other
# It would write on. Once cleaned it waits for a start that does not come
# (cloudinit/cmd/status.py).
[ ! -e /var/lib/cloud/data/status.json ] || timeout 300 cloud-init status --wait >/dev/null 2>&1 </dev/null
apt-get clean </dev/null
rm -rf /var/lib/apt/lists/*
cloud-init clean --logs --seed </dev/null || exit
rm -f /etc/netplan/50-cloud-init.yaml /etc/network/interfaces.d/50-cloud-init* /etc/udev/rules.d/70-persistent-net.rules
# What systemd would write again when the machine is switched off.
journalctl --relinquish-var >/dev/null 2>&1 </dev/null
mkdir -p /run/systemd/system/systemd-random-seed.service.d
printf '[Service]\nExecStop=\n' >/run/systemd/system/systemd-random-seed.service.d/agentlab.conf
systemctl daemon-reload >/dev/null 2>&1 </dev/null
rm -f /etc/ssh/ssh_host_* /var/lib/systemd/random-seed /var/lib/systemd/credential.secret
rm -f /var/lib/dhcp/*.lease* /var/lib/dhclient/*.lease* /var/lib/NetworkManager/*lease*
rm -f /root/.bash_history /home/*/.bash_history /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys
[ -L /var/lib/dbus/machine-id ] || rm -f /var/lib/dbus/machine-id
rm -rf /var/log/journal/*
find /var/log -xdev -type f -exec truncate -s 0 {} +
find /tmp /var/tmp -xdev -mindepth 1 ! -name 'systemd-private-*' -delete 2>/dev/null
: >/etc/machine-id || exit # empty: the first boot of a clone makes its own
fstrim -a 2>/dev/null
sync
for f in /etc/ssh/ssh_host_* /var/lib/cloud/instance /var/lib/dhcp/*.lease* /root/.bash_history; do
	[ ! -e "$f" ] || { echo "$f is still there"; exit 1; }
done
[ ! -s /etc/machine-id ] || { echo '/etc/machine-id is not empty'; exit 1; }
