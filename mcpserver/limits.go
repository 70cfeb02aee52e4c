package mcpserver

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"golang.org/x/time/rate"
)

// Limits are what one principal may take over HTTP. Zero is no limit.
type Limits struct {
	Rate  float64 // requests a second on average; those of ten seconds may come at once
	Calls int     // calls of tools at a time. Those of urgent tools, and other requests, have as much room of their own
}

// retry is the data of an error that says to try again later.
type retry struct {
	AfterSeconds int `json:"retry_after_seconds"`

	limit string // what there was too much of, one of few; empty is nothing
}

// again says when to try again, in whole seconds.
func again(limit string, after time.Duration) retry {
	return retry{max(1, int(math.Ceil(after.Seconds()))), limit}
}

// shares are what each principal takes.
type shares struct {
	Limits
	streams int // that one may listen to at a time: each has a connection, which others then do not have

	mu     sync.Mutex
	byName map[string]*share
}

// share is what one principal takes. A nil one takes nothing and has no limit.
type share struct {
	limits  Limits
	streams int
	rate    *rate.Limiter // nil is no limit, and no pace
	// pace spaces all requests out, those that are refused and those that may
	// come at once alike, so that who asks for much at once takes little from
	// others: a refusal costs almost as much as a call that does nothing.
	pace *rate.Limiter

	mu    sync.Mutex
	holds int    // who has a pointer to it
	heard int    // streams of what belongs to no request
	looks int    // resources that are looked at again and again
	calls [2]int // running: ordinary, others
	bytes int64  // of large bodies being read and served

	excess excess
}

// of returns the share of a principal, which the caller must let go.
func (s *shares) of(name string) *share {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.byName[name]
	if sh == nil {
		sh = &share{limits: s.Limits, streams: s.streams}
		if s.Rate > 0 {
			sh.rate = rate.NewLimiter(rate.Limit(s.Rate), max(1, int(s.Rate*10)))
			sh.pace = rate.NewLimiter(rate.Limit(max(100, s.Rate*5)), unpaced)
		}
		if s.byName == nil {
			s.byName = map[string]*share{}
		}
		s.byName[name] = sh
	}
	return sh.hold()
}

// sweep forgets the principals of whom there is nothing to remember.
func (s *shares) sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, sh := range s.byName {
		if sh.unused() {
			delete(s.byName, name)
		}
	}
}

func (s *share) unused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holds == 0 && s.excess.nothing() && (s.rate == nil || s.rate.Tokens() >= float64(s.rate.Burst()))
}

// hold keeps the share from being forgotten until letGo.
func (s *share) hold() *share {
	if s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.holds++
	}
	return s
}

func (s *share) letGo() {
	if s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.holds--
	}
}

const (
	unpaced = 20              // requests that may come at once without waiting for their turn
	maxTurn = 5 * time.Second // that a request waits for its turn; more are refused
)

// turn returns when it is the turn of a request, or says why it will not be. It
// is asked before anything is done for it.
func (s *share) turn(ctx context.Context) *mcp.JSONRPCErrorDetails {
	if s.pace == nil || s.pace.Allow() {
		return nil
	}
	r := s.pace.Reserve()
	wait := r.Delay()
	if wait > maxTurn {
		r.Cancel()
		return s.much("rate", wait, "so many requests wait for their turn, which comes %g times a second, that it would take more than %v", float64(s.pace.Limit()), maxTurn)
	}
	sleep(ctx, wait) // false means that nobody waits for the answer
	return nil
}

// often says why a request would be refused for how often its principal asks,
// and takes nothing.
func (s *share) often() *mcp.JSONRPCErrorDetails {
	if s.rate == nil || s.rate.Tokens() >= 1 {
		return nil
	}
	return s.tooOften()
}

func (s *share) tooOften() *mcp.JSONRPCErrorDetails {
	wait := (1 - s.rate.Tokens()) / s.limits.Rate // seconds
	return s.much("rate", time.Duration(wait*float64(time.Second)), "more than %g requests a second", s.limits.Rate)
}

// enter takes room for a request of that class until leave, or says why there
// is none.
func (s *share) enter(class int) *mcp.JSONRPCErrorDetails {
	if s == nil {
		return nil
	}
	if s.rate != nil && !s.rate.Allow() {
		return s.tooOften()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limits.Calls > 0 && s.calls[class] >= s.limits.Calls {
		return s.much("calls", time.Second, "%d calls are running already, the most there may be at a time; wait for some to end, or run commands with wait_seconds=0", s.limits.Calls)
	}
	s.calls[class]++
	return nil
}

// listen takes room for a stream of what belongs to no request until unlisten,
// or says why there is none.
func (s *share) listen() *mcp.JSONRPCErrorDetails {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heard >= s.streams {
		return s.much("streams", time.Minute, "%d streams are open already, the most there may be at a time; close some", s.streams)
	}
	s.heard++
	return nil
}

func (s *share) unlisten() {
	if s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.heard--
	}
}

// maxLooks is how many resources one principal may be told the changes of, on
// all connections: each look may read a file.
const maxLooks = 200

// look takes room for looking at a resource until unlook, or says why there is
// none.
func (s *share) look() *mcp.JSONRPCErrorDetails {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looks >= maxLooks {
		return s.much("subscriptions", watchEvery, "%d resources are subscribed to, the most there may be on all connections; unsubscribe from one", maxLooks)
	}
	s.looks++
	return nil
}

func (s *share) unlook() {
	if s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.looks--
	}
}

func (s *share) leave(class int) {
	if s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.calls[class]--
	}
}

// smallBody is the size in bytes up to which a body counts as nothing.
const smallBody = 64 << 10

// load takes room for a body of that size until unload, or says why there is
// none. It is asked before the body is read.
func (s *share) load(size int64) *mcp.JSONRPCErrorDetails {
	s.mu.Lock()
	defer s.mu.Unlock()
	if size > smallBody && s.bytes+size > maxBytes {
		return s.tooMuchToRead(s.bytes)
	}
	s.bytes += size
	return nil
}

func (s *share) unload(size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes -= size
}

// tooMuchToRead refuses a request beside others of so many bytes.
func (s *share) tooMuchToRead(others int64) *mcp.JSONRPCErrorDetails {
	return s.much("bodies", time.Second, "requests of %d MiB are being served already, and there may be %d MiB at a time; write large files one after the other", others>>20, maxBytes>>20)
}

// endingAfter is when it may be worth trying again to reach a server that ends.
const endingAfter = 5 * time.Second

// ending refuses what is asked of a server that is ending.
func ending() *mcp.JSONRPCErrorDetails {
	when := again("", endingAfter)
	return &mcp.JSONRPCErrorDetails{
		Code: busy, Data: when,
		Message: fmt.Sprintf("the server is ending; sandboxes go on, try again in %d s", when.AfterSeconds),
	}
}

// tooMuch is a refusal that says what the limit is and when to try again.
func tooMuch(limit string, after time.Duration, format string, args ...any) *mcp.JSONRPCErrorDetails {
	when := again(limit, after)
	text := fmt.Sprintf(format, args...) + fmt.Sprintf("; try again in %d s", when.AfterSeconds)
	return &mcp.JSONRPCErrorDetails{Code: busy, Message: text, Data: when}
}
