// Package runsc pins the gVisor that machines of this host run in. It is a
// module of its own, so that gVisor's dependencies are not ours; "make build"
// builds bin/runsc from it, with one line of gVisor exchanged: its systrap platform
// looks 2500 times a second how long switches take, also in a sandbox that does
// nothing. The script build and the directory _systrap say what it does here.
package runsc
