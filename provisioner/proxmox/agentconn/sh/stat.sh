# stat LITTER USER OFFSET MAX PIECE
#
# Describes the file whose path is on standard input and returns up to MAX
# bytes of it from OFFSET on. More than a little is left in $tmp/PIECE.
# The file is opened by USER, not by us.
raw=$tmp/$5.raw packed=0
# shellcheck disable=SC2016 # another shell's
become_read='
path=$(cat; echo .)
path=${path%.}
case $path in */) [ -e "$path" ] || [ -h "${path%/}" ] || { ls -d -- "$path" >/dev/null; exit 1; } ;; esac
info=$(stat -L -c "%f %s %y %u %g %d:%i" -- "$path") || exit 1
[ -d "$path" ] && echo "Is a directory" >&2 && exit 1
[ -f "$path" ] || { echo "not regular" >&2; exit 1; }
off=$1 max=$2
size=${info#* }
size=${size%% *}
[ "$off" -lt 0 ] && off=$((size + off))
[ "$off" -lt 0 ] && off=0
exec 5<"$path" || exit 1
echo "$off $info"
[ "$max" -gt 0 ] || exit 0
dd bs=65536 iflag=skip_bytes,fullblock skip="$off" count=$((max / 65536 + 1)) <&5 2>/dev/null | head -c "$max" >&4'
head=$( (become "$2" /bin/sh -c "$become_read" agentlab-read "$3" "$4") 4>"$raw") || { rm -f "$raw"; exit 1; }
n=$(wc -c <"$raw")
[ "$n" -le $inline ] || pack "$5" <"$raw"
echo "$n $packed $head"
[ "$n" -gt $inline ] || cat "$raw"
rm "$raw"
