# Installs the package, upgrades, removes and purges it, and says on standard
# output how each went.
exec 3>&1 >&2
umask 022
pid=
trap '[[ -z $pid ]] || kill -KILL $pid' EXIT
home=/var/lib/agentlab-service
mkfifo /tmp/says

say() { echo "$@" >&3; }

# pkg NAME ARGUMENTS... runs dpkg and says what it asked of systemd, to which every
# unit runs here, and whether ours is enabled.
pkg() {
	local name=$1 code=0
	shift
	dpkg --force-depends --force-confdef "$@" &>/tmp/out || code=$?
	cat /tmp/out
	# shellcheck disable=SC2046 # they are words
	say "$name" "$code" $(sed -nE "s/^Running in chroot, ignoring command '(start|restart|stop)'$/\1/p" /tmp/out) \
		$(systemctl is-enabled agentlab 2>/dev/null | grep -xE 'enabled|disabled')
}

# as_service COMMAND... becomes a command of the service's user, in the background.
as_service() { exec setpriv --reuid=agentlab --regid=agentlab --init-groups "$@"; }

# until_says TEXT waits until what writes to /tmp/says has said so.
until_says() {
	local line=
	until [[ $line == *$1* ]]; do
		read -r line <&4
		echo "$line"
	done
}

# Root has an installation of its own.
install -d -m 711 /var/lib/agentlab /run/agentlab
echo roots >/var/lib/agentlab/instance.key

pkg install -i /tmp/a.deb
say user "$(id -un agentlab)" "$(getent passwd agentlab | cut -d: -f6,7)" "$(stat -c "%U:%G %a" $home)"
say config "$(stat -c "%U:%G %a" /etc/agentlab /etc/agentlab/service /etc/agentlab/service/config.yaml | xargs)"
say version "$(agentlab version)"
cd /root
say doctor "$(agentlab-service doctor | grep configuration | xargs)" # in a chroot nothing local is made

# Only systemd starts the daemon.
for command in 'token list' serve; do
	code=0
	# shellcheck disable=SC2086 # it is several words
	agentlab-service $command 2>/tmp/out || code=$?
	say "$command" "$code $(cat /tmp/out)"
done

# The wrapper finds a daemon that has what the unit gives it.
install -d -o agentlab -g agentlab -m 700 /run/agentlab-service
unit=/usr/lib/systemd/system/agentlab.service
# shellcheck disable=SC2046 # they are several words
as_service env $(sed -n 's/^Environment=//p' $unit) $(sed -n 's/^ExecStart=//p' $unit) &>/tmp/says &
pid=$!
exec 4</tmp/says
until_says msg=serving
agentlab-service token create ci >/root/ci.token
agentlab-service store backup saved
say daemon "$(stat -c "%U %a" /run/agentlab-service/agentlab/*.sock $home/agentlab/agentlab.db $home/saved/instance.key | xargs)"
kill $pid
wait $pid || true
exec 4<&-

# What runs as the sandbox of a service does, also after an upgrade.
cp /usr/bin/perl /usr/lib/agentlab/runsc
as_service /usr/lib/agentlab/runsc -e '$| = 1; print "up\n"; kill STOP => $$' >/tmp/says &
pid=$!
exec 4</tmp/says
until_says up
exec 4<&-
echo '#mine' >>/etc/agentlab/service/config.yaml
echo key >$home/agentlab/instance.key
chmod 600 /etc/agentlab/service/config.yaml
pkg upgrade -i /tmp/a.deb
say upgraded "$(tail -n 1 /etc/agentlab/service/config.yaml) $(stat -c %a /etc/agentlab/service/config.yaml)"
pkg refused -r agentlab
grep -F 'agentlab-service sandbox destroy' /tmp/out
kill -KILL $pid
wait $pid || true
pid=

pkg remove -r agentlab
say removed "$(tail -n 1 /etc/agentlab/service/config.yaml) $(cat $home/agentlab/instance.key) $(command -v agentlab || echo gone)"
pkg again -i /tmp/a.deb
systemctl disable agentlab
pkg disabled -i /tmp/a.deb
touch /etc/agentlab/service/{environment,proxmox-token,profiles/mine.yaml}
pkg purge -P agentlab
grep -F "$home is kept" /tmp/out
say purged "$(ls -d /etc/agentlab 2>/dev/null || echo gone) $(cat $home/agentlab/instance.key)"
say roots "$(cat /var/lib/agentlab/instance.key) $(stat -c "%U %a" /var/lib/agentlab /var/lib/agentlab/instance.key /run/agentlab | xargs)"
