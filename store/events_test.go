package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
)

func TestEvents(t *testing.T) {
	db, _ := open(t)
	happen(t, db, 1, 7)
	if err := db.Log(t.Context(), sessions.Event{At: noon.Add(2 * time.Hour), Sandbox: "sb-2", Principal: "local:2", What: "late"}); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		q    sessions.EventQuery
		want []int64
		last int64
	}{
		"all":        {sessions.EventQuery{}, []int64{1, 2, 3, 4, 5, 6, 7}, 7},
		"page":       {sessions.EventQuery{Limit: 2, After: 3}, []int64{4, 5}, 5},
		"rest":       {sessions.EventQuery{After: 5}, []int64{6, 7}, 7},
		"since":      {sessions.EventQuery{Since: noon.Add(5 * time.Hour)}, []int64{5, 6}, 7},
		"sandbox":    {sessions.EventQuery{Sandbox: "sb-2"}, []int64{2, 7}, 7},
		"principal":  {sessions.EventQuery{Principal: "local:2"}, []int64{7}, 7},
		"none":       {sessions.EventQuery{Sandbox: "sb-none"}, nil, 7},
		"beyond all": {sessions.EventQuery{After: 70}, nil, 70},
	} {
		if tt.q.Limit == 0 {
			tt.q.Limit = 100
		}
		list, last, err := db.Events(t.Context(), tt.q)
		var got []int64
		for _, e := range list {
			got = append(got, e.Seq)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" || last != tt.last || err != nil {
			t.Errorf("%s: last %d, %v (-want +got):\n%s", name, last, err, diff)
		}
	}
}

// Who follows is woken by the event, and by no other.
func TestEventsAreWaitedFor(t *testing.T) {
	db, _ := open(t)
	got := make(chan string, 1)
	go func() {
		list, last, err := db.Events(t.Context(), sessions.EventQuery{Sandbox: "sb-2", Limit: 10, Wait: time.Hour})
		got <- fmt.Sprint(len(list), " ", last, " ", err)
	}()
	happen(t, db, 1, 3)
	if s := <-got; s != "1 2 <nil>" {
		t.Errorf("Events: %s", s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := db.Events(ctx, sessions.EventQuery{After: 2, Limit: 10, Wait: time.Hour}); !errors.Is(err, context.Canceled) {
		t.Errorf("Events of who has gone: %v", err)
	}
}

// No filter has all events read.
func TestEventsAreFoundByIndexes(t *testing.T) {
	db, _ := open(t)
	since := time.Unix(1, 0)
	for want, q := range map[string]sessions.EventQuery{
		"events_of_sandbox (sandbox=? AND rowid>? AND rowid<?)":     {Sandbox: "sb-1", Since: since},
		"events_of_principal (principal=? AND rowid>? AND rowid<?)": {Principal: "alice", Since: since},
		"INTEGER PRIMARY KEY (rowid>? AND rowid<?)":                 {Since: since}, // from the first that is young enough on
	} {
		if plan := store.Plan(t, db, q); !strings.HasSuffix(plan, want) {
			t.Errorf("%+v: %s, want %s", q, plan, want)
		}
	}
}
