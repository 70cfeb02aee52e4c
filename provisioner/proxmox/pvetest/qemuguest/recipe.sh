#!/bin/sh
# Builds what a test guest boots from into the directory $1: disk.qcow2, a
# Debian 12 with sshd and cloud-init, and vmlinuz and initrd. If $2 is "ready" it
# has the agent; if "stock" it has none, as images for clouds, but packages/ has
# it with what it needs. This runs as root in a mount namespace of its own, or as
# a user who has subordinate ids (newuidmap, /etc/subuid).
#
# All here that is not Debian's default makes it boot faster under emulation,
# where a second of processor time takes twenty.
set -eu
out=$1 kind=$2

mode=root work=$out
if [ "$(id -u)" != 0 ]; then
	mode=unshare
	chmod 1777 "$out" # unshare's root is somebody else out here
elif awk '/^MemAvailable:/ {exit $2 < 4000000}' /proc/meminfo; then
	# In memory it takes half the time. It ends with the namespace.
	work=$out/work
	mkdir "$work"
	mount -t tmpfs -o size=2g,mode=755 tmpfs "$work" || work=$out
fi

cat >"$out/customize" <<'CUSTOMIZE'
#!/bin/sh
set -eu
root=$1 out=$2 kind=$3

# What cloud-init does: the name, the user, keys. It runs once, before the network.
configure_ready() {
	cat >"$root/etc/cloud/cloud.cfg" <<'CFG'
datasource_list: [NoCloud]
disable_root: false
preserve_hostname: false
ssh_genkeytypes: [ed25519]
ssh_deletekeys: false
users: [default]
cloud_init_modules: [set_hostname, update_etc_hosts, users_groups, ssh]
cloud_config_modules: []
cloud_final_modules: []
system_info:
  distro: debian
  default_user: {name: debian, lock_passwd: true, shell: /bin/bash}
  network: {renderers: [networkd]}
  paths: {cloud_dir: /var/lib/cloud, templates_dir: /etc/cloud/templates}
  ssh_svcname: ssh
CFG
	rm -f "$root/etc/cloud/cloud.cfg.d/"*
	cat >"$root/etc/cloud/cloud.cfg.d/logging.cfg" <<'LOG'
output: {all: '>> /var/log/cloud-init-output.log'}
log_cfgs:
  - |
    [loggers]
    keys=root
    [handlers]
    keys=file
    [formatters]
    keys=plain
    [logger_root]
    level=WARNING
    handlers=file
    [handler_file]
    class=FileHandler
    level=WARNING
    formatter=plain
    args=('/var/log/cloud-init.log', 'a')
    [formatter_plain]
    format=%(asctime)s %(message)s
LOG
	for unit in cloud-init.service cloud-config.service cloud-final.service systemd-networkd-wait-online.service; do
		ln -sf /dev/null "$root/etc/systemd/system/$unit"
	done
	# Nor programs that look what there is to be started: that is known.
	mkdir -p "$root/etc/systemd/system-generators"
	for generator in "$root"/lib/systemd/system-generators/*; do
		case $generator in *fstab*) ;; *) ln -s /dev/null "$root/etc/systemd/system-generators/${generator##*/}" ;; esac
	done
	ln -sf /lib/systemd/system/cloud-init.target "$root/etc/systemd/system/multi-user.target.wants/"
}

# cloud-init is as Debian configures it, but for one host key in place of four,
# and where packages come from, which differs from run to run: the kernel is told.
configure_stock() {
	cat >"$root/etc/cloud/cloud.cfg.d/90_mirror.cfg" <<'CFG'
locale: C.UTF-8
ssh_genkeytypes: [ed25519]
apt: {preserve_sources_list: true}
bootcmd:
  - [sh, -c, "sed -n 's|.*mirror=\\([^ ]*\\).*|deb [trusted=yes] \\1 ./|p' /proc/cmdline >/etc/apt/sources.list"]
CFG
	mkdir -p "$out/packages/partial"
	APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -q -y -o Dir::Cache::archives="$out/packages" -o APT::Sandbox::User=root \
		--no-install-recommends --download-only install qemu-guest-agent jq
	rm -rf "$out/packages/partial" "$out/packages/lock"
	cd "$out/packages"
	for deb in *.deb; do
		dpkg-deb -f "$deb"
		echo "Filename: ./$deb"
		echo "Size: $(stat -c %s "$deb")"
		echo "SHA256: $(sha256sum "$deb" | cut -d ' ' -f 1)"
		echo
	done >Packages
	echo "SHA256:
 $(sha256sum Packages | cut -d ' ' -f 1) $(stat -c %s Packages) Packages" >Release
	cd /
}

"configure_$kind"

# Nothing that a sandbox has no use for, and whatever waits.
for unit in systemd-timesyncd.service systemd-pstore.service \
	apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
	modprobe@.service systemd-sysctl.service systemd-sysusers.service systemd-modules-load.service \
	systemd-network-generator.service systemd-binfmt.service systemd-update-utmp.service systemd-update-utmp-runlevel.service \
	systemd-journal-flush.service sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount dev-mqueue.mount \
	getty@tty1.service cloud-init-hotplugd.socket; do
	ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
ln -sf /lib/systemd/system/systemd-networkd.service "$root/etc/systemd/system/multi-user.target.wants/"
rm -f "$root"/etc/ssh/ssh_host_*
: >"$root/etc/machine-id"
echo '/dev/vda / ext4 defaults,noatime 0 0' >"$root/etc/fstab"
rm -rf "$root"/usr/share/doc "$root"/usr/share/man "$root"/usr/share/locale "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*

# An initrd that loads what the disk needs and nothing more.
version=$(ls "$root/lib/modules")
initrd=$(mktemp -d)
mkdir -p "$initrd/bin" "$initrd/mod" "$initrd/dev" "$initrd/root"
cp "$root/bin/busybox" "$initrd/bin/"
list=$(chroot "$root" modprobe -S "$version" --show-depends -a virtio_pci virtio_blk ext4 crc32c_generic | sed -n 's/^insmod //p' | awk '!seen[$1]++ {print $1}')
{
	echo '#!/bin/busybox sh'
	echo 'busybox=/bin/busybox'
	n=0
	for module in $list; do
		n=$((n + 1))
		cp "$root$module" "$initrd/mod/$n.ko"
		echo "\$busybox insmod /mod/$n.ko"
	done
	echo '$busybox mount -t devtmpfs dev /dev'
	echo 'until $busybox mount -t ext4 -o noatime /dev/vda /root; do $busybox sleep 0.1; done'
	echo '$busybox umount /dev'
	echo 'exec $busybox switch_root /root /lib/systemd/systemd'
} >"$initrd/init"
chmod 755 "$initrd/init"
(cd "$initrd" && find . | cpio --quiet -o -H newc) >"$out/initrd"
cp "$root/boot/vmlinuz-$version" "$out/vmlinuz"
rm -rf "$initrd"

# Without what mmdebstrap has mounted below it.
mkdir "$out/root"
mount --bind "$root" "$out/root"
truncate -s 2G "$out/disk.raw"
mke2fs -q -t ext4 -O ^has_journal -d "$out/root" "$out/disk.raw"
umount "$out/root"
rmdir "$out/root"
CUSTOMIZE
chmod 755 "$out/customize"

case $kind in
ready) own=qemu-guest-agent ;;
stock) own=netplan.io ;; # as Debian's images have
esac
TMPDIR=$work mmdebstrap --quiet --mode="$mode" --variant=minbase --format=null \
	--aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
	--dpkgopt='path-exclude=/etc/kernel/postinst.d/initramfs-tools' \
	--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
	--include="linux-image-cloud-amd64,systemd,systemd-sysv,udev,dbus,cloud-init,openssh-server,$own,busybox-static,kmod,iproute2,procps,ca-certificates,login" \
	--customize-hook="\"$out/customize\" \"\$1\" \"$out\" $kind" \
	bookworm /dev/null
qemu-img convert -O qcow2 "$out/disk.raw" "$out/disk.qcow2"
rm "$out/disk.raw" "$out/customize"
if [ "$work" != "$out" ]; then
	umount "$work"
	rmdir "$work"
fi
