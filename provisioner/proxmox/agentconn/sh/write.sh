# write LITTER USER KEY STEP DO APPEND MODE UNLESS LENGTH FORM
#
# Writes a file. DO is begin, data, commit, several of them, or abort; STEP
# counts the calls. Begin has the path, LENGTH bytes, on standard input, and
# data after it, unless that was uploaded as KEY because FORM is not none. It
# grows beside the file it is to replace, with the rights of USER.
user=$2 key=$3 step=$4 steps=$5
shift 5
append=$1 mode=$2 unless=$3 length=$4 form=$5
# shellcheck disable=SC2016 # another shell's
become_write='
key=$1 steps=$2 append=$3 mode=$4 unless=$5
fail() { printf "%s\n" "$1" >&2; exit 1; }
cd 2>/dev/null
path=$(cat <&3; echo .)
path=${path%.}
real=$(cat <&5; echo .)
real=${real%.}
now() { stat -L -c "%s %y" -- "$real" 2>/dev/null; }
changed() { [ "$unless" ] && [ "$(now)" != "$unless" ]; }
case $steps in *begin*)
	why=$(stat -L -- "$path" 2>&1 >/dev/null) || case $why in
	*"No such file"*) ;;
	*) fail "$why" ;;
	esac
	case $path in */) fail "Is a directory" ;; esac
	[ -d "$path" ] && fail "Is a directory"
	if [ -e "$path" ]; then
		[ -f "$path" ] || fail "not regular"
		[ -w "$path" ] || fail "Permission denied"
	fi
	dir=${path%/*}
	[ -d "${dir:-/}" ] || mkdir -p -m 755 -- "$dir" || exit 1
	real=$path links=0 # the readlink of busybox goes astray where the file is missing
	while [ -h "$real" ] && ! [ -e "$real" ] && [ $((links += 1)) -le 40 ]; do
		link=$(readlink -- "$real"; echo .)
		link=${link%??}
		case $link in /*) real=$link ;; *) real=${real%/*}/$link ;; esac
	done
	real=$(readlink -f -- "$real"; echo .)
	real=${real%??}
	[ "$real" ] || fail "No such file or directory"
	printf %s "$real" >&4
	changed && fail "file changed" ;;
esac
new=1
[ -e "$real" ] && new=0
if [ "$append" = 1 ]; then
	case $steps in *data*)
		[ $new = 0 ] || { (umask 077; : >"$real") && chmod "${mode:-644}" -- "$real"; } || exit 1
		cat >>"$real" || exit 1 ;;
	esac
	echo "created=$new"
	exit 0
fi
temp=${real%/*}/.agentlab-$key
case $steps in *abort*) rm -f -- "$temp"; exit 0 ;; esac
case $steps in
*begin*) ;;
*) [ -e "$temp" ] || fail "what was written so far is gone, as nothing came for ten minutes" ;;
esac
case $steps in *data*) cat >>"$temp" || exit 1 ;; esac
case $steps in *commit*)
	changed && fail "file changed"
	[ -d "$real" ] && fail "Is a directory"
	if [ $new = 0 ]; then
		chown "$(stat -c %u:%g -- "$real")" "$temp" 2>/dev/null
		mode=${mode:-$(stat -c %a -- "$real")}
	fi
	chmod "${mode:-644}" -- "$temp" && mv -f -- "$temp" "$real" || exit 1 ;;
esac
echo "created=$new"'

# given prints the data of this step.
given() {
	case $form$steps in
	none*data*) tail -c +$((length + 1)) "$tmp/$key.in" ;;
	none*) ;;
	*) unpack "$key" "$form" ;;
	esac
}

work() {
	cat >"$tmp/$key.in"
	case $steps in *begin*) head -c "$length" "$tmp/$key.in" >"$tmp/$key.path" ;; esac
	echo "$user" >"$tmp/$key.user"
	: >>"$tmp/$key.real" && touch "$tmp/$key.real"
	given | (become "$user" /bin/sh -c "$become_write" agentlab-write "$key" "$steps" "$append" "$mode" "$unless") \
		3<"$tmp/$key.path" 4>"$tmp/$key.new" 5<"$tmp/$key.real"
	code=$?
	[ -s "$tmp/$key.new" ] && mv "$tmp/$key.new" "$tmp/$key.real"
	rm -f "$tmp/$key".0* "$tmp/$key.in"
	return $code
}

once "$key-$step"
answer=$(work 2>&1)
said "$key-$step" $? "$answer"
