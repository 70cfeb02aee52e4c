package tools

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// Event is a line of the record of what happened, as the operator sees it.
type Event struct {
	Seq       int64  `json:"seq"`
	Time      string `json:"time"`
	Principal string `json:"principal,omitempty" doc:"Empty is AgentLab itself"`
	Sandbox   string `json:"sandbox,omitempty"`
	What      string `json:"what"`
	Tool      string `json:"tool,omitempty"`
	From      string `json:"from,omitempty"`
	To        string `json:"to,omitempty"`
	Detail    string `json:"detail,omitempty" doc:"Reason or outcome"`
	Micros    int64  `json:"duration_us,omitempty"`
	Arguments string `json:"arguments,omitempty" doc:"JSON"`
	Hash      string `json:"hash" doc:"Of it and all before it"`
}

func viewEvent(e sessions.Event) Event {
	return Event{
		Seq: e.Seq, Time: e.At.UTC().Format(time.RFC3339Nano), Principal: e.Principal, Sandbox: e.Sandbox, What: string(e.What), Tool: e.Tool,
		From: string(e.From), To: string(e.To), Detail: e.Detail, Micros: e.Duration.Microseconds(), Arguments: e.Arguments, Hash: hex.EncodeToString(e.Hash),
	}
}

// eventPage is how many events an answer has at most.
const eventPage = 500

type eventListIn struct {
	After     int    `arg:"after" default:"0" min:"0" doc:"Go on after this event"`
	Since     string `arg:"since" bytes:"40" doc:"Time as RFC 3339 has it"`
	Sandbox   string `arg:"sandbox" bytes:"100" doc:"Its id"`
	Principal string `arg:"principal" bytes:"300"`
	Wait      int    `arg:"wait_seconds" default:"0" min:"0" max:"55" doc:"For the first"`
}

// EventList is the result of event_list.
type EventList struct {
	Events []Event `json:"events"`
	After  int64   `json:"after" doc:"Where to go on"`
	More   bool    `json:"more" doc:"There may be more by now"`
}

func (s *service) eventList() Tool {
	return define(s, Tool{
		Name: "event_list", Title: "List events",
		Scope:       sessions.ScopeAdmin,
		Description: "What happened, in the order in which it was recorded.",
		Output:      outputOf[EventList](),
		Annotations: Annotations{ReadOnly: true, Idempotent: true},
		Doing:       "reading the events",
		Unrecorded:  true,
	}, func(ctx context.Context, m *sessions.Manager, in eventListIn) (Result, error) {
		q := sessions.EventQuery{
			After: int64(in.After), Sandbox: in.Sandbox, Principal: in.Principal, Limit: eventPage, Wait: seconds(in.Wait),
		}
		if in.Since != "" {
			at, err := time.Parse(time.RFC3339, in.Since)
			if err != nil || at.Year() < 1970 || at.Year() > 2200 { // what the store can hold, and then some
				return Result{}, sessions.Errorf(sessions.Invalid, "since: got %q, want a time of the years 1970 to 2200, such as 2026-11-23T12:00:00Z", brief(in.Since))
			}
			q.Since = at
		}
		list, last, err := m.Store.Events(ctx, q)
		if err != nil {
			return Result{}, err
		}
		out := EventList{Events: []Event{}, After: last, More: len(list) == eventPage}
		for _, e := range list {
			out.Events = append(out.Events, viewEvent(e))
		}
		return structured(out, count(len(list), "event", "events")), nil
	})
}
