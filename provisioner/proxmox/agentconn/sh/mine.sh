# shellcheck shell=sh
# What comes before every script: which guest is meant, and where ours is in it.
#
# A script is the argument of /bin/sh -c. Nothing is ever put into its text:
# what differs comes in "$@", ASCII words that we made up ourselves, and what a
# user said or is secret comes on standard input or in files below $spool, as
# bytes. Where user data must become shell words, Go quotes it (quote in spec.go).
#
# The first two arguments are for this file: IDENTITY and ADOPT, see prove.
#
# Every script may be run twice: an answer that was lost on the way is had by
# asking again. Programs are started sparingly, since that is what takes time.
#
# dash, busybox ash and bash run them, with the tools of coreutils or busybox.
umask 077
lc=${LC_ALL-}
export LC_ALL=C
PATH=${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}
identity=$1 adopt=$2
shift 2
spool=/var/lib/agentlab
tmp=$spool/tmp.$identity # only root can see its name, or make it

# prove makes sure that this guest is the one that is meant, which bears the
# identity, before anything is done in it: another may run by now under the ID of
# the machine. If ADOPT is none, no other is; if it is bare, one that bears no
# identity at all is given it; if it is any, every one. Go knows code and text.
prove() {
	[ -d "$tmp" ] && return
	for f in $spool/tmp.*; do
		[ $adopt = bare ] && [ -d "$f" ] && adopt=none
	done
	[ $adopt != none ] || { echo "this guest is another" >&2; exit 77; }
	(umask 066 && mkdir -p ${spool%/*} $spool) && mkdir -p "$tmp" || exit 1
}

# arm ID SECONDS: has switch.sh count down anew, from so many seconds, unless it
# was armed with that ID already. In place and always as long: a full disk, or a
# reader at the same time, does no harm.
arm() {
	printf '%s %-10s end\n' "$1" "$2" 1<>$spool/armed
}
