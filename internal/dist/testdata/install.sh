# Installs the package $1 with dpkg on a copy of this system that is gone at the
# end, upgrades, removes and purges it.
set -eu
root=$2
mount --make-rprivate /
mount -t tmpfs tmpfs "$root"
mkdir "$root/up" "$root/work" "$root/all"
mount -t overlay overlay -o "lowerdir=/,upperdir=$root/up,workdir=$root/work" "$root/all"
rm -rf "$root/all/var/lib/agentlab" "$root/all/etc/agentlab"
mount -t tmpfs tmpfs "$root/all/tmp"
mount -t tmpfs tmpfs "$root/all/run"
cp "$1" "$root/all/tmp/a.deb"
mount --rbind /proc "$root/all/proc"
mount --rbind /dev "$root/all/dev"
chroot "$root/all" sh -eu -c '
	say() { echo "$@" >&3; }
	exec 3>&1 >&2
	dpkg -i --force-depends /tmp/a.deb
	say user "$(id -un agentlab)" "$(getent passwd agentlab | cut -d: -f6,7)"
	say config "$(stat -c "%U:%G %a" /etc/agentlab /etc/agentlab/service /etc/agentlab/service/config.yaml | xargs)"
	say version "$(agentlab version)"
	install -d -o agentlab -g agentlab -m 700 /var/lib/agentlab /run/agentlab
	say doctor "$(agentlab-service doctor | grep configuration | xargs)" # in a chroot nothing local is made
	echo "#mine" >>/etc/agentlab/service/config.yaml
	echo key >/var/lib/agentlab/instance.key
	chmod 600 /etc/agentlab/service/config.yaml
	dpkg -i --force-depends --force-confdef /tmp/a.deb
	say upgraded "$(tail -n 1 /etc/agentlab/service/config.yaml) $(stat -c %a /etc/agentlab/service/config.yaml)"
	dpkg -r agentlab
	say removed "$(tail -n 1 /etc/agentlab/service/config.yaml) $(cat /var/lib/agentlab/instance.key) $(command -v agentlab || echo gone)"
	dpkg -P agentlab
	say purged "$(ls -d /etc/agentlab 2>/dev/null || echo gone) $(cat /var/lib/agentlab/instance.key)"
'
