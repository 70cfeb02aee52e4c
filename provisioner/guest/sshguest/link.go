package sshguest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// maxMissed is how many periods of silence end a connection somebody waits on.
const maxMissed = 3

// errNotSent: the request certainly never left.
var errNotSent = errors.New("request was not sent")

// link is a session with the guest.
type link struct {
	nc        net.Conn // for short calls
	session   atomic.Pointer[wire.Session]
	keepAlive time.Duration
	out       *wire.Sender
	ctx       context.Context // ends with the link
	cancel    context.CancelFunc
	heard     atomic.Int64 // reads that gave something, on any connection
	busy      atomic.Int64 // calls and streams under way
	resting   atomic.Bool  // watch sleeps, since nobody waits
	wake      chan struct{}

	mu      sync.Mutex
	err     error // why it is dead
	lastID  uint64
	pending map[uint64]chan wire.Answer
	streams map[*stream]struct{}
}

func newLink(nc net.Conn, session *wire.Session, keepAlive time.Duration) *link {
	l := &link{
		nc: nc, keepAlive: keepAlive,
		wake:    make(chan struct{}, 1),
		pending: map[uint64]chan wire.Answer{}, streams: map[*stream]struct{}{},
	}
	l.session.Store(session)
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.resting.Store(true)
	l.out = wire.NewSender(nc, l.ctx.Done(), l.fail)
	go l.receive()
	go l.watch()
	return l
}

// heardReader counts what it reads, so that silence is noticed.
type heardReader struct {
	io.Reader
	heard *atomic.Int64
}

func (r heardReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.heard.Add(1)
	return n, err
}

// fail ends the session and all that waits for it.
func (l *link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.err = fmt.Errorf("%w: %w", guest.ErrUnreachable, err)
	l.cancel()
	_ = l.nc.Close() // whatever it says, it is of no use any more
	for s := range l.streams {
		_ = s.nc.Close()
	}
}

// add makes s end with the link.
func (l *link) add(s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		_ = s.nc.Close()
		return
	}
	l.streams[s] = struct{}{}
}

func (l *link) remove(s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.streams, s)
}

func (l *link) failed() bool { return l.ctx.Err() != nil }

// cause returns why the link is dead.
func (l *link) cause() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// begin and done frame whatever waits for the guest.
func (l *link) begin() {
	l.busy.Add(1)
	if l.resting.CompareAndSwap(true, false) {
		l.wake <- struct{}{} // has room: only who ends the rest sends
	}
}

func (l *link) done() { l.busy.Add(-1) }

// watch pings a guest that is silent while somebody waits, and gives it up
// after maxMissed periods. While nobody waits it sleeps.
func (l *link) watch() {
	for {
		select {
		case <-l.wake:
		case <-l.ctx.Done():
			return
		}
		if err := l.watchBusy(); err != nil {
			l.fail(err)
			return
		}
	}
}

func (l *link) watchBusy() error {
	tick := time.NewTicker(l.keepAlive)
	defer tick.Stop()
	missed, seen := 0, l.heard.Load()
	for {
		select {
		case <-tick.C:
		case <-l.ctx.Done():
			return nil
		}
		if l.busy.Load() == 0 {
			l.resting.Store(true)
			// Who began between the two lines has seen no rest and sent no wake.
			if l.busy.Load() == 0 || !l.resting.CompareAndSwap(true, false) {
				return nil
			}
		}
		if now := l.heard.Load(); now != seen {
			missed, seen = 0, now
			continue
		}
		if missed++; missed >= maxMissed {
			return fmt.Errorf("the guest was silent for %v", time.Duration(missed)*l.keepAlive)
		}
		if missed == 1 {
			go l.ping(context.Background())
		}
	}
}

// ping makes the guest say something; only that it does counts.
func (l *link) ping(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, maxMissed*l.keepAlive)
	defer cancel()
	_, _ = l.exchange(ctx, wire.OpPing, nil)
}

// receive hands out the answers as they come.
func (l *link) receive() {
	for in := bufio.NewReader(heardReader{l.nc, &l.heard}); ; {
		var a wire.Answer
		if err := wire.ReadFrame(in, &a); err != nil {
			l.fail(err)
			return
		}
		l.mu.Lock()
		waiting := l.pending[a.ID] // nil if nobody waits any more
		delete(l.pending, a.ID)
		l.mu.Unlock()
		if waiting != nil {
			waiting <- a
		}
	}
}

// exchange sends one short call, does what is to be done meanwhile, and waits for
// the answer. When ctx ends first it tells the guest so.
func (l *link) exchange(ctx context.Context, op string, args any, meanwhile ...func()) (json.RawMessage, error) {
	text, err := json.Marshal(args)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", op, err)
	}
	answer := make(chan wire.Answer, 1)
	l.mu.Lock()
	l.lastID++
	id := l.lastID
	l.pending[id] = answer
	l.mu.Unlock()
	defer l.forget(id)
	frame, err := wire.Frame(wire.Request{ID: id, Op: op, Args: text})
	if err != nil {
		return nil, err
	}
	if err := l.out.Send(ctx, frame); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, errNotSent
	}
	for _, do := range meanwhile {
		do()
	}
	return l.await(ctx, id, answer)
}

// await waits for the answer to a call.
func (l *link) await(ctx context.Context, id uint64, answer <-chan wire.Answer) (json.RawMessage, error) {
	select {
	case a := <-answer:
		return a.Result, wire.FromError(a.Err)
	case <-l.ctx.Done():
		select {
		case a := <-answer: // the last word of a guest that then hung up
			return a.Result, wire.FromError(a.Err)
		default:
			return nil, l.cause()
		}
	case <-ctx.Done():
		go l.giveUp(id)
		return nil, ctx.Err()
	}
}

func (l *link) forget(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pending, id)
}

// giveUp tells the guest that nobody waits for a call.
func (l *link) giveUp(id uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), maxMissed*l.keepAlive)
	defer cancel()
	if frame, err := wire.Frame(wire.Request{ID: id, Op: wire.OpCancel}); err == nil {
		_ = l.out.Send(ctx, frame) // fails with the link
	}
}

// call makes one short call. It is repeated once, on a new connection, if it
// certainly never left on the first.
func call[T any](ctx context.Context, c *Conn, op string, args any) (T, error) {
	var result T
	for again := true; ; again = false {
		l, err := c.link(ctx)
		if err != nil {
			return result, err
		}
		result, err = callOn[T](ctx, l, op, args)
		if again && errors.Is(err, errNotSent) {
			continue
		}
		return result, err
	}
}

// callOn makes one short call over a connection; see exchange.
func callOn[T any](ctx context.Context, l *link, op string, args any, meanwhile ...func()) (result T, err error) {
	l.begin()
	text, err := l.exchange(ctx, op, args, meanwhile...)
	l.done()
	if errors.Is(err, errNotSent) {
		err = fmt.Errorf("%w: %w", errNotSent, l.cause())
	}
	if err != nil {
		return result, err
	}
	if err := json.Unmarshal(text, &result); err != nil {
		return result, fmt.Errorf("%w: malformed answer to %s: %v", guest.ErrUnreachable, op, err)
	}
	return result, nil
}
