package tools

import "context"

// Moved is how much of a file or a directory has been copied.
type Moved struct {
	Done  int64 `json:"bytes"`
	Total int64 `json:"total,omitempty"` // 0 is not known
}

type movedKey struct{}

// WithMoved returns a context in which [Copied] tells how far it is.
func WithMoved(ctx context.Context, tell func(Moved)) context.Context {
	return context.WithValue(ctx, movedKey{}, tell)
}

// Copied says how far a call is that has ctx, for whoever waits for it.
func Copied(ctx context.Context, now Moved) {
	if tell, ok := ctx.Value(movedKey{}).(func(Moved)); ok {
		tell(now)
	}
}

// tally counts what is written to it, for whoever waits for a call.
type tally struct {
	ctx context.Context
	now Moved
}

// newTally returns a tally for the call that has ctx. Total is called if somebody
// waits for it; 0 is that it is not known.
func newTally(ctx context.Context, total func() int64) *tally {
	t := &tally{ctx: ctx}
	if ctx.Value(movedKey{}) != nil {
		t.now.Total = total()
	}
	Copied(ctx, t.now)
	return t
}

// Write is part of io.Writer.
func (t *tally) Write(p []byte) (int, error) {
	t.now.Done += int64(len(p))
	Copied(t.ctx, t.now)
	return len(p), nil
}
