# info LITTER USER MARK FORM
#
# Describes the files whose paths are on standard input, or were uploaded as
# MARK if FORM is not none, as shell words. Each
# description ends with MARK, which nobody can have put into a name.
if [ "$4" = none ]; then words=$(cat); else words=$(unpack "$3" "$4"); fi
# shellcheck disable=SC2016 # another shell's
become_info='
eval "set -- \"$1\" $2"
mark=$1
shift
for f; do
	stat -c "%f %s %y %u %g" -- "$f" 2>/dev/null || continue
	printf "%s%s" "$f" "$mark"
	[ -h "$f" ] && readlink -n -- "$f"
	printf "%s" "$mark"
done'
become "$2" /bin/sh -c "$become_info" agentlab-info "$3" "$words"
