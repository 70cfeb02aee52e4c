package pvetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Server is a simulated cluster. Its fields must not change once it is in use,
// except through what the hooks return.
type Server struct {
	// Version is what GET /version says; empty is 8.4.21. It decides the names
	// of privileges, the parameters of calls and the form of errors.
	Version string

	// Scale is how long PVE's own waiting times take here, 1 being real time.
	// Zero is 0.01. TaskTime, CallTime, AgentDelay and AddressDelay are not scaled.
	Scale float64

	// Patience is the least real time an agent that ought to answer is given,
	// whatever Scale says, and a tenth of what any call is; zero is 2 s.
	Patience time.Duration

	// AuthDelay is how long a 401 takes; zero is 3 s times Scale.
	AuthDelay time.Duration

	// Staleness is how old /cluster/resources and /nodes may be, the cycle of
	// pvestatd; zero is 10 s times Scale, negative is always fresh.
	Staleness time.Duration

	// CallTime is how long a call occupies one of the three workers of a node.
	CallTime time.Duration

	// TaskTime is how long tasks work, by type (qmclone, qmstart, ...). A
	// negative time is for ever: until the task is stopped.
	TaskTime map[string]time.Duration

	// AgentDelay says how long after the start of a VM its guest agent
	// answers; nil is at once, a negative time is never.
	AgentDelay func(vmid int) time.Duration

	// AddressDelay says how long its agent answers before a guest's network
	// has got an address for more than its own link; nil is not at all.
	AddressDelay func(vmid int) time.Duration

	// LoseReply says whether the reply of a guest agent to a command is lost on
	// its way: what it did is done, and PVE runs into its timeout. Nil is none.
	LoseReply func(vmid int, reply string) bool

	// NewGuest makes the inside of a VM; nil makes guests that answer the
	// agent's questions and can't run anything.
	NewGuest func(GuestSpec) (Guest, error)

	// Destroyed is called when a VM is destroyed, for who keeps files of it.
	// Nil is nobody.
	Destroyed func(vmid int)

	// Hold is called for every authenticated request, and done after its
	// answer, so that a test can order concurrent requests.
	Hold func(*http.Request) (done func())

	// Fail says what goes wrong with a request; nil is nothing.
	Fail func(*http.Request) *Fault

	// TaskFail gives the exit status a task of this type and id ends with
	// after its work; empty is the one it would have had. "unexpected status"
	// is a worker that died without a word.
	TaskFail func(typ, id string) string

	// ArgumentsLast decides how the JSON of an agent command is ordered, which
	// in PVE is up to Perl's hash order. When it is cut off by the bug with
	// non-ASCII arguments, true makes the agent deaf until it restarts, false
	// lets it recover. Nil is at random.
	ArgumentsLast func() bool

	dialWeb func(ctx context.Context, network, addr string) (net.Conn, error) // for downloads; nil is this machine's way

	once      sync.Once
	mu        sync.Mutex // guards all below
	c         *Cluster
	ctx       context.Context
	stop      context.CancelFunc
	work      sync.WaitGroup
	listeners map[string]*listener
	snapshot  statsView // what pvestatd saw last
	pid       int
	booted    time.Time
	guests    map[int]*machine
	shells    []func()
	gates     map[string]chan struct{} // what tasks wait for, by step

	firstOption  string        // that a change looks at first: Perl's hashes have no order
	lockPatience time.Duration // the least real time that a lock is waited for
}

// Fault is something that goes wrong with one request.
type Fault struct {
	Status int    // what is answered instead; 0 with Drop
	Reason string // its reason phrase, also the message of the body
	Drop   bool   // the connection breaks without an answer
	After  bool   // only after the request has taken effect
}

// start makes the cluster on first use.
func (s *Server) start() {
	s.once.Do(func() {
		s.ctx, s.stop = context.WithCancel(context.Background())
		s.booted = time.Now().Add(-time.Hour)
		s.pid = 1500
		s.listeners = map[string]*listener{}
		s.guests = map[int]*machine{}
		s.c = newCluster(s.release())
	})
}

// Edit shows the state of the cluster to f, under the server's lock. The guest
// of a VM that f removes has ended when Edit returns.
func (s *Server) Edit(f func(c *Cluster)) {
	s.start()
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s.c)
	for id, m := range s.guests {
		if s.c.VMs[id] == nil {
			m.kill()
			delete(s.guests, id)
		}
	}
	s.snapshot.taken = time.Time{}
}

// Close ends all tasks, guests and listeners, and waits for them.
func (s *Server) Close() {
	s.start()
	s.stop()
	s.mu.Lock()
	for _, l := range s.listeners {
		l.close()
	}
	for _, m := range s.guests {
		m.kill()
	}
	for _, f := range s.shells {
		f()
	}
	s.mu.Unlock()
	s.work.Wait()
}

// release is the version as major times 100 plus minor: 804.
func (s *Server) release() int {
	parts := strings.Split(s.version(), ".")
	major, _ := strconv.Atoi(parts[0])
	minor := 0
	if len(parts) > 1 {
		minor, _ = strconv.Atoi(parts[1])
	}
	return major*100 + minor
}

func (s *Server) version() string {
	if s.Version == "" {
		return "8.4.21"
	}
	return s.Version
}

// scaled is d of PVE's time in ours.
func (s *Server) scaled(d time.Duration) time.Duration {
	if s.Scale == 0 {
		return d / 100
	}
	return time.Duration(float64(d) * s.Scale)
}

// patience is d of PVE's time, but at least the real time that work takes which
// is really done.
func (s *Server) patience(d time.Duration, times int) time.Duration {
	least := s.Patience
	if least == 0 {
		least = 2 * time.Second
	}
	return max(s.scaled(d), least*time.Duration(times))
}

// unlocked runs f without the lock, which the caller holds.
func (s *Server) unlocked(f func()) {
	s.mu.Unlock()
	defer s.mu.Lock()
	f()
}

// sleep waits without the lock; it ends early with ctx or the server.
func (s *Server) sleep(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	var err error
	s.unlocked(func() {
		var over <-chan time.Time
		if d > 0 {
			t := time.NewTimer(d)
			defer t.Stop()
			over = t.C
		}
		select {
		case <-over:
		case <-ctx.Done():
			err = ctx.Err()
		case <-s.ctx.Done():
			err = errServerClosed
		}
	})
	return err
}

var errServerClosed = errors.New("simulator closed")

// nextPID is a process id that grows as they do on a node.
func (s *Server) nextPID() int {
	s.pid += 1 + rand.IntN(4)
	return s.pid
}

// jiffies is the time since boot in 1/100 s, as /proc/PID/stat has it.
func (s *Server) jiffies() int64 { return int64(time.Since(s.booted) / (10 * time.Millisecond)) }

// apiError is an answer that is not 200.
type apiError struct {
	status  int
	message string            // without the trailing newline that PVE has
	errors  map[string]string // of a 400
	bare    bool              // no body at all
	text    bool              // the body is the message as text, not JSON
	close   bool              // no answer: the connection breaks
	exact   bool              // the message has no trailing newline
}

func (e *apiError) Error() string { return e.message }

// inTask is the error as the exit status of a task has it: on one line, and with
// the code that an exception of PVE's API begins with (measured for a 403).
func (e *apiError) inTask() string {
	text := e.message
	if e.status != 500 {
		text = fmt.Sprintf("%d %s", e.status, text)
	}
	for _, k := range slices.Sorted(maps.Keys(e.errors)) {
		text += "\n" + k + ": " + e.errors[k]
	}
	return strings.ReplaceAll(text, "\n", " ")
}

// die is a Perl die: 500 with its text.
func die(format string, args ...any) *apiError {
	return &apiError{status: 500, message: fmt.Sprintf(format, args...)}
}

// badParam is the 400 of one parameter.
func badParam(name, format string, args ...any) *apiError {
	return badParams(map[string]string{name: fmt.Sprintf(format, args...)})
}

func badParams(errs map[string]string) *apiError {
	return &apiError{status: 400, message: "Parameter verification failed.", errors: errs}
}
