# hello LITTER
#
# Says what this guest has. Any script makes the spool.
echo "$has"
