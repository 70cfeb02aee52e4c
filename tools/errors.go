package tools

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// maxError is the most that is said of an error, in bytes; clients cut a bit later.
const maxError = 8000

// guestErrors words what the guest can answer. A tool that knows more (whose
// file, which names are near) says so itself with a sessions.Error.
var guestErrors = []struct {
	err  error
	kind sessions.Kind
	text string
}{
	{guest.ErrNoBecome, sessions.Invalid, "to run as another user this sandbox needs setpriv (of util-linux), su or start-stop-daemon in it"},
	{guest.ErrNoCommand, sessions.Invalid, "the shell of this profile is not in the sandbox; tell the operator"},
	{guest.ErrNoProcess, sessions.NotFound, "no such process; list_sandboxes with this sandbox_id names the known ones"},
	{guest.ErrExited, sessions.Conflict, "the process has ended; read_process gives its output"},
	{guest.ErrBusy, sessions.Exhausted, "the sandbox has no room for one more process; end some with control_process (signal KILL)"},
	{guest.ErrIsDir, sessions.Invalid, "the path is a directory; use list_files to see it, or name a file"},
	{guest.ErrNotDir, sessions.Invalid, "a part of the path is a file, not a directory"},
	{guest.ErrNotRegular, sessions.Invalid, "the path is a device, a socket or a pipe; use exec for it"},
	{guest.ErrNoSpace, sessions.Exhausted, "no space left in the sandbox; remove files with exec (du -xh / | sort -h | tail), or create a sandbox with more disk_gb"},
	{guest.ErrChanged, sessions.Conflict, "the file changed meanwhile; read it again, then repeat the edit"},
	{fs.ErrPermission, sessions.Invalid, "permission denied in the sandbox"},
	{fs.ErrNotExist, sessions.NotFound, "no such file or directory in the sandbox"},
	{guest.ErrUnreachable, sessions.Unavailable, "the sandbox does not answer. What was asked may have happened in part: look before you repeat it. If it stays so, destroy it and create a new one"},
	{sessions.ErrStoreUnavailable, sessions.Unavailable, sessions.CantRecord}, // of tokens and events; of a sandbox the Manager says it
	{context.DeadlineExceeded, sessions.Unavailable, "this took too long and was given up; what was asked may have happened in part"},
	{context.Canceled, sessions.Conflict, "cancelled"},
}

// present words an error for the caller. It is the only place that does, so
// that nothing internal gets out: what has no wording goes to the log under a
// reference, and only the reference is shown.
func (s *service) present(ctx context.Context, tool string, err error) Result {
	kind, text := explain(err)
	if kind == sessions.Internal {
		ref := rand.Text()[:8]
		s.log.ErrorContext(ctx, "internal error", "ref", ref, "tool", tool, "err", err)
		text = fmt.Sprintf("internal error (ref %s); the server's log says more under this reference. It is not your fault; trying again once is all right", ref)
	}
	return failure(kind, tool+": "+text)
}

// explain returns the class of an error and what may be shown of it.
func explain(err error) (sessions.Kind, string) {
	var known *sessions.Error
	if errors.As(err, &known) && known.Kind != sessions.Internal && known.Msg != "" {
		return known.Kind, known.Msg
	}
	for _, g := range guestErrors {
		if errors.Is(err, g.err) {
			return g.kind, g.text
		}
	}
	return sessions.Internal, ""
}

// broken is the answer while there is no Manager. The operator of the
// installation is who mends it, so the text of the error is shown in full.
func (s *service) broken(tool string, err error) Result {
	return failure(sessions.Unavailable, fmt.Sprintf("%s: this AgentLab is not usable until its operator mends it: %v", tool, err))
}

// failureMeta is what programs are told of an error.
type failureMeta struct {
	Kind string `json:"kind"` // [Result.Outcome]
}

// OutcomeRefused is the outcome of a call that the caller may not make.
const OutcomeRefused = "refused"

// Refused is the answer to such a call.
func Refused(text string) Result { return failed(OutcomeRefused, text) }

// failure is a result that tells the caller of an error.
func failure(kind sessions.Kind, text string) Result {
	return failed(kind.String(), strings.ToValidUTF8(text[:min(len(text), maxError)], ""))
}

func failed(outcome, text string) Result {
	return Result{IsError: true, Outcome: outcome, Meta: failureMeta{outcome}, Content: []Content{{Text: text}}}
}

// invalid is the error of a request that is wrong.
func invalid(format string, args ...any) error {
	return sessions.Errorf(sessions.Invalid, format, args...)
}
