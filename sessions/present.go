package sessions

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// CantRecord is said of [ErrStoreUnavailable].
const CantRecord = "the server can't keep its records now (is its disk full?); nothing was changed. Try again later"

// present turns the errors of backends, guests and the store into an *Error
// that says what happened and what to do about sandbox id. It is the only
// place that does so. What it doesn't know, such as an error of the guest's
// file system, passes unchanged: who asked for the file words it best.
func present(id string, err error) error {
	var known *Error
	var kind Kind
	var msg string
	switch {
	case err == nil, errors.As(err, &known):
		return err
	case errors.Is(err, provisioner.ErrInvalid):
		kind, msg = Invalid, "the request can't be met: "+quoted(err.Error(), 300)
	case errors.Is(err, provisioner.ErrExhausted):
		kind, msg = Exhausted, "the server has no room: "+quoted(err.Error(), 300)+"; destroy a sandbox that is no longer needed, or ask for less memory or disk"
	case errors.Is(err, provisioner.ErrUnavailable):
		kind, msg = Unavailable, "the server can't make or reach sandboxes now: "+quoted(err.Error(), 300)
	case errors.Is(err, guest.ErrUnreachable):
		kind, msg = Unavailable, fmt.Sprintf("sandbox %s can't be reached; if a command was asked for, it may have started. Try again; if that goes on, destroy it and create a new one", id)
	case errors.Is(err, provisioner.ErrNotFound), errors.Is(err, provisioner.ErrNotOurs):
		kind, msg = Unavailable, fmt.Sprintf("the machine of sandbox %s is gone, and with it its files; create a new one with create_sandbox", id)
	case errors.Is(err, ErrStoreUnavailable):
		kind, msg = Unavailable, CantRecord
	case errors.Is(err, ErrNoRecord):
		return unknown(id)
	case errors.Is(err, ErrConflict):
		kind, msg = Conflict, fmt.Sprintf("sandbox %s is changing its state; try again", id)
	default:
		return err
	}
	return &Error{Kind: kind, Msg: msg, Err: err}
}

// internal is present for what only we can be to blame for.
func internal(id string, err error) error {
	var known *Error
	if err = present(id, err); err == nil || errors.As(err, &known) || isCanceled(err) {
		return err
	}
	if errors.Is(err, syscall.ENOSPC) {
		return &Error{Unavailable, "the server's disk is full. Try again later, or destroy a sandbox", err}
	}
	return &Error{Kind: Internal, Err: err}
}

// unknown is what everybody reads of a sandbox that is not theirs, whether it
// exists or not.
func unknown(id string) *Error {
	return Errorf(NotFound, "sandbox %q does not exist or is not yours; list_sandboxes shows yours, create_sandbox makes a new one", clip(id, 64))
}

// ended is what its owner reads of a sandbox that is over.
func ended(sb Sandbox, now time.Time) *Error {
	at, why := sb.Ended, sb.Reason
	if sb.State.Live() {
		at, why = sb.End, reasonTTL
	}
	return Errorf(NotFound, "sandbox %s ended %s (%s); its files are gone; create a new one with create_sandbox", sb.ID, ago(now.Sub(at)), why)
}

// overQuota lists what the owner has, so that it can choose what to give up or
// wait for the first to end.
func overQuota(q Quota, want Sandbox, own []Sandbox, now time.Time) *Error {
	var memory int
	first := want.MaxEnd
	list := make([]string, 0, len(own))
	for _, sb := range own {
		memory += sb.MemoryMB
		if sb.End.Before(first) {
			first = sb.End
		}
		what := fmt.Sprintf("%s %s", sb.ID, strings.ToLower(string(sb.State)))
		if sb.Name != "" {
			what = fmt.Sprintf("%s (%s) %s", sb.ID, sb.Name, strings.ToLower(string(sb.State)))
		}
		list = append(list, fmt.Sprintf("%s, %d MB, made %s", what, sb.MemoryMB, ago(now.Sub(sb.Created))))
	}
	const most = 20
	if len(list) > most {
		list = append(list[:most], fmt.Sprintf("and %d more", len(own)-most))
	}
	use := fmt.Sprintf("%d of %d sandboxes in use", len(own), q.Sandboxes)
	if q.Sandboxes == 0 || len(own) < q.Sandboxes {
		use = fmt.Sprintf("%d of %d MB of memory in use, %d MB more asked for", memory, q.MemoryMB, want.MemoryMB)
	}
	if len(list) == 0 {
		return Errorf(Exhausted, "quota: %s. Ask for less memory_mb", use)
	}
	wait := max(1, int(math.Ceil(first.Sub(now).Seconds())))
	return Errorf(Exhausted, "quota: %s (%s). Destroy one with destroy, or try again in %d s, when the first of them ends", use, strings.Join(list, "; "), wait)
}

func isCanceled(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// ago says how long ago something was, for people.
func ago(d time.Duration) string {
	switch {
	case d < 2*time.Second:
		return "just now"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s ago", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min ago", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", d/time.Hour)
	}
	return fmt.Sprintf("%d days ago", d/(24*time.Hour))
}

// quoted is what we repeat of an error: its secrets are masked before it is cut, since
// half a secret looks like none.
func quoted(s string, n int) string { return clip(redact.Text(s), n) }

// clip bounds what we repeat of what others wrote.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= n {
		return s
	}
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}
