# beat LITTER KEY
#
# Says that we are still there, though we pull nothing.
cd "$spool/$2" && : >beat
