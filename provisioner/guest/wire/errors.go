package wire

import (
	"errors"
	"io/fs"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// Error is an error on its way through the connection. Kind says which of
// guest's errors it is; an unknown or empty one is an error without a name.
type Error struct {
	Kind string `json:"kind,omitempty"`
	Text string `json:"text"`
}

// maxText bounds the text of an error that comes from the guest.
const maxText = 2000

// kinds are the errors that keep their identity across the connection.
var kinds = map[string]error{
	"no_dir":      guest.ErrNoDir,
	"no_user":     guest.ErrNoUser,
	"no_command":  guest.ErrNoCommand,
	"no_process":  guest.ErrNoProcess,
	"exited":      guest.ErrExited,
	"busy":        guest.ErrBusy,
	"is_dir":      guest.ErrIsDir,
	"not_dir":     guest.ErrNotDir,
	"not_regular": guest.ErrNotRegular,
	"no_space":    guest.ErrNoSpace,
	"changed":     guest.ErrChanged,
	"not_exist":   fs.ErrNotExist,
	"permission":  fs.ErrPermission,
	"exist":       fs.ErrExist,
}

// ToError returns err in the form that travels; nil stays nil.
func ToError(err error) *Error {
	if err == nil {
		return nil
	}
	for kind, is := range kinds {
		if errors.Is(err, is) {
			return &Error{Kind: kind, Text: err.Error()}
		}
	}
	return &Error{Text: err.Error()}
}

// FromError returns the error that e stands for; nil stays nil.
func FromError(e *Error) error {
	if e == nil {
		return nil
	}
	text := e.Text
	if len(text) > maxText {
		text = text[:maxText]
	}
	return &remoteError{text: text, is: kinds[e.Kind]}
}

// remoteError has the guest's text and the identity of one of guest's errors.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }
