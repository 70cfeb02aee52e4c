# Runs inside.sh on a copy of this system that is gone at the end, and has the
# package $1. $2 is an empty directory.
set -eu
root=$2
mount --make-rprivate /
mount -t tmpfs tmpfs "$root"
mkdir "$root/up" "$root/work" "$root/all"
mount -t overlay overlay -o "lowerdir=/,upperdir=$root/up,workdir=$root/work" "$root/all"
rm -rf "$root/all/var/lib/agentlab" "$root/all/var/lib/agentlab-service" "$root/all/etc/agentlab" "$root/all/usr/sbin/policy-rc.d"
mount -t tmpfs tmpfs "$root/all/tmp"
mount -t tmpfs tmpfs "$root/all/run"
cp "$1" "$root/all/tmp/a.deb"
cp "${0%/*}/inside.sh" "$root/all/tmp/"
mount --rbind /proc "$root/all/proc"
mount --rbind /dev "$root/all/dev"
# systemctl enables and disables there, and says what else it was asked to do.
mkdir -p "$root/all/run/systemd/system"
SYSTEMD_OFFLINE=1 chroot "$root/all" bash -euo pipefail /tmp/inside.sh
