package tools

import (
	"net/url"
	"strings"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// place is what a URI of a template names.
type place struct {
	sandbox string
	path    string // of a file; empty is the home directory
	process string
	problem error // what is wrong with the URI
}

// scheme begins every URI of ours. Like all schemes it may be in capitals.
const scheme = "sandbox://"

func exactly(uri string) func(string) (place, bool) {
	return func(other string) (place, bool) {
		rest, ok := ours(other)
		return place{}, ok && scheme+rest == uri
	}
}

// ours returns what follows the scheme.
func ours(uri string) (rest string, ok bool) {
	if len(uri) < len(scheme) || !strings.EqualFold(uri[:len(scheme)], scheme) {
		return "", false
	}
	return uri[len(scheme):], true
}

// matchFile is for sandbox://{sandbox_id}/files{+path}. All that follows files
// is the path, also a ? and a #: there are neither queries nor fragments, and
// {+path} does not encode them. A path is taken as it is once decoded, and ..
// is up to the sandbox, which it does not lead out of.
func matchFile(uri string) (place, bool) {
	rest, ok := ours(uri)
	id, rest, cut := strings.Cut(rest, "/")
	name, files := strings.CutPrefix(rest, "files")
	if !ok || !cut || !files || name != "" && name[0] != '/' {
		return place{}, false
	}
	var at place
	at.sandbox, at.path = at.decode("sandbox_id", id, 100), at.decode("path", name, 4095)
	return at, true
}

// matchLog is for sandbox://{sandbox_id}/processes/{process_id}/log.
func matchLog(uri string) (place, bool) {
	rest, ok := ours(uri)
	parts := strings.SplitN(rest, "/", 5)
	if !ok || len(parts) != 4 || parts[1] != "processes" || parts[3] != "log" {
		return place{}, false
	}
	var at place
	at.sandbox, at.process = at.decode("sandbox_id", parts[0], 100), at.decode("process_id", parts[2], 100)
	return at, true
}

// decode undoes the percent-encoding of one variable, or notes what is wrong.
// What should have been encoded and was not, as a space, is taken as it is.
func (at *place) decode(variable, text string, most int) string {
	value, err := url.PathUnescape(text)
	switch {
	case err != nil:
		at.problem = invalid("%s: %q is not percent-encoded (RFC 3986); write %% as %%25", variable, brief(text))
	case len(value) > most:
		at.problem = invalid("%s: has %s bytes, at most %s are allowed", variable, thousands(len(value)), thousands(most))
	case strings.ContainsRune(value, 0):
		at.problem = invalid("%s: must not contain a NUL byte (%%00)", variable)
	default:
		return value
	}
	return ""
}

// noResource is the error for a URI that is none of ours.
func noResource(uri string) error {
	return sessions.Errorf(sessions.NotFound, "there is no resource %q; there are sandbox://sandboxes, sandbox://profiles, sandbox://{sandbox_id}/files{+path} and sandbox://{sandbox_id}/processes/{process_id}/log", brief(uri))
}
