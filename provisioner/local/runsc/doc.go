// Package runsc pins the gVisor that machines of this host run in. It is a
// module of its own, so that gVisor's dependencies are not ours; "make build"
// builds bin/runsc from it:
//
//	CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o ../../../bin/runsc gvisor.dev/gvisor/runsc
package runsc
