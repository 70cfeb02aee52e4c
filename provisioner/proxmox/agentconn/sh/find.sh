# find LITTER USER DEPTH MAX PIECE
#
# Lists what is below the directory whose path is on standard input, each path
# ended by a NUL, of MAX bytes at most; more than a little in $tmp/PIECE. The directory is
# read by USER. A path that is no directory is answered with "file=1".
raw=$tmp/$5.raw
# shellcheck disable=SC2016 # another shell's
become_find='
path=$(cat; echo .)
path=${path%.}
stat -L -- "$path" >/dev/null || exit 1
[ -d "$path" ] || { echo file=1; exit 0; }
[ -r "$path" ] && [ -x "$path" ] || { echo "Permission denied" >&2; exit 1; }
cd -- "$path" || exit 1
ls . >/dev/null || exit 1
find . -mindepth 1 -maxdepth "$1" -print0 2>/dev/null | head -c "$2" >&4'
file=$( (become "$2" /bin/sh -c "$become_find" agentlab-find "$3" "$4") 4>"$raw") || { rm -f "$raw"; exit 1; }
n=$(wc -c <"$raw") packed=0
[ "$n" -le $inline ] || pack "$5" <"$raw"
echo "$file n=$n gz=$packed"
[ "$n" -gt $inline ] || cat "$raw"
rm "$raw"
