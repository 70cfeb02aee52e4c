// Package release says which version of AgentLab a program is.
package release

import "runtime/debug"

// Version is that of the module as the go command recorded it: a release's
// tag, or one made of the commit and its time.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown)"
	}
	return info.Main.Version
}
