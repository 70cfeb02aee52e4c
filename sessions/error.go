package sessions

import "fmt"

// Kind is the class of an [Error]: what the caller can do about it.
type Kind int

// The six kinds. The zero Kind is Internal, so that a forgotten one hides its text.
const (
	Internal    Kind = iota // our fault; the text goes to the log, not to the caller
	Invalid                 // the request is wrong and will stay so
	NotFound                // no such thing, or not the caller's
	Conflict                // not in the state that the request needs
	Exhausted               // a limit is reached
	Unavailable             // a backend or guest does not answer; later may work
)

// String returns the name of the kind as used in logs and metrics.
func (k Kind) String() string {
	names := [...]string{"internal", "invalid", "not_found", "conflict", "exhausted", "unavailable"}
	if k < 0 || int(k) >= len(names) {
		return fmt.Sprintf("kind(%d)", int(k))
	}
	return names[k]
}

// Error says what happened and what the caller can do next.
type Error struct {
	Kind Kind
	Msg  string // safe to show; empty for Internal
	Err  error  // for logs only; may be nil
}

// Error returns the text for the log.
func (e *Error) Error() string {
	switch {
	case e.Err == nil:
		return e.Msg
	case e.Msg == "":
		return e.Err.Error()
	}
	return e.Msg + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an Error whose text is safe to show.
func Errorf(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Msg: fmt.Sprintf(format, args...)}
}
