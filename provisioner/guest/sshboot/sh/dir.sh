# Before each script: where all of ours is.
umask 077
if [ -z "$dir" ]; then
	case $(id -u) in
	0) dir=/var/lib/agentlab-guest ;;
	*) dir=$HOME/.agentlab-guest ;;
	esac
fi
program=$dir/agentlab-guest
