package mcpserver

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/agentlab-mcp/agentlab/sessions"
)

const (
	// tellEvery is how often at most it is an event that one principal was refused
	// for one limit, so that who asks for too much fills no table with it.
	tellEvery = 10 * time.Minute
	// lookForExcess is how long at most the first refusal waits for its event.
	lookForExcess = time.Minute
)

// excess is what a principal was refused for each limit.
type excess struct {
	mu      sync.Mutex
	byLimit map[string]*refusals
}

// refusals are those for one limit that no event tells yet.
type refusals struct {
	count       int
	first, told time.Time // told is when the last event was
}

// much refuses a request of a principal for a limit.
func (s *share) much(limit string, after time.Duration, format string, args ...any) *mcp.JSONRPCErrorDetails {
	if s != nil {
		s.excess.add(limit)
	}
	return tooMuch(limit, after, format, args...)
}

func (e *excess) add(limit string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.byLimit == nil {
		e.byLimit = map[string]*refusals{}
	}
	r := e.byLimit[limit]
	if r == nil {
		r = &refusals{}
		e.byLimit[limit] = r
	}
	if r.count++; r.count == 1 {
		r.first = time.Now()
	}
}

// due returns the events that are to be kept now, at the end of all there are.
func (e *excess) due(principal string, end bool) (events []sessions.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, limit := range slices.Sorted(maps.Keys(e.byLimit)) {
		r := e.byLimit[limit]
		switch recent := time.Since(r.told) < tellEvery; {
		case recent && !end:
		case r.count == 0:
			delete(e.byLimit, limit)
		default:
			events = append(events, sessions.Event{
				At: r.first, Principal: principal, What: sessions.EventRefused, Detail: limit, Duration: time.Since(r.first),
				Arguments: string(mustJSON(map[string]int{"count": r.count})),
			})
			*r = refusals{told: time.Now()}
		}
	}
	return events
}

// nothing says that nothing need be remembered.
func (e *excess) nothing() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.byLimit) == 0
}

// excesses returns the events of all principals that are due, at the end of all there
// are.
func (s *shares) excesses(end bool) (events []sessions.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, sh := range s.byName {
		events = append(events, sh.excess.due(name, end)...)
	}
	return events
}
