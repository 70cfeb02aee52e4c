# drop LITTER KEY
#
# Removes a command of mode run that has ended.
rm -rf "${spool:?}/$2"
