package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab/internal/cli"
	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/tools"
)

// eventsRequest is which events are wanted, and how they are shown.
type eventsRequest struct {
	sandbox, principal, since string
	follow, asJSON            bool
}

func newEventsCommand(locate func() (config.Paths, error)) *cobra.Command {
	var req eventsRequest
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what happened",
		Long: `Show what happened, the oldest first: what became of sandboxes, who called which
tool with what outcome, which tokens were made and revoked.

The daemon of this user tells it, and is started if none runs.
` + exitCodes + "  6    there is no such sandbox\n",
		Args: cobra.NoArgs,
		RunE: cli.Interruptible("", func(cmd *cobra.Command, _ []string) error {
			since, err := sinceTime(req.since, time.Now())
			if err != nil {
				return err
			}
			admin, err := newAdminClient(cmd, locate)
			if err != nil {
				return err
			}
			defer admin.Close()
			err = admin.events(cmd.Context(), req, since, cmd.OutOrStdout())
			if req.follow && cmd.Context().Err() != nil { // it is how following ends
				return nil
			}
			return fail(exitFailed, err)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&req.follow, "follow", "f", false, "go on with what happens from now on, until interrupted")
	f.StringVar(&req.sandbox, "sandbox", "", "only of the sandbox with this id, or of the live one of yours with this name")
	f.StringVar(&req.principal, "principal", "", "only by this principal")
	f.StringVar(&req.since, "since", "24h", "from this time on, as 2026-11-23T12:00:00Z, or so long ago, as 90m; 0 is all")
	f.BoolVar(&req.asJSON, "json", false, "one JSON object a line, with all fields")
	return cmd
}

// sinceTime reads --since; empty is from the beginning.
func sinceTime(since string, now time.Time) (string, error) {
	if since == "0" {
		return "", nil
	}
	if ago, err := time.ParseDuration(since); err == nil && ago >= 0 {
		return now.Add(-ago).UTC().Format(time.RFC3339), nil
	}
	at, err := time.Parse(time.RFC3339, since)
	if err != nil {
		return "", fmt.Errorf("--since: got %q, want a time such as 2026-11-23T12:00:00Z, a duration such as 90m, or 0", since)
	}
	return at.UTC().Format(time.RFC3339), nil
}

// events shows events, page by page, for ever if they are to be followed.
func (a adminClient) events(ctx context.Context, req eventsRequest, since string, out io.Writer) error {
	const wait = 50 // seconds
	show := showEvent
	if req.asJSON {
		show = exportEvent
	}
	if req.sandbox != "" {
		ids, err := a.Resolve(ctx, req.sandbox)
		if err != nil {
			return err
		}
		req.sandbox = ids[0]
	}
	args := map[string]any{"sandbox": req.sandbox, "principal": req.principal, "since": since}
	for {
		var page tools.EventList
		if err := a.Call(ctx, "event_list", args, &page); err != nil {
			return err
		}
		for _, e := range page.Events {
			if err := show(out, e); err != nil {
				return err
			}
		}
		args["after"] = page.After
		switch {
		case page.More:
		case req.follow:
			args["wait_seconds"] = wait
		default:
			return nil
		}
	}
}

// showEvent writes an event for people.
func showEvent(out io.Writer, e tools.Event) error {
	what := e.What
	if e.Tool != "" {
		what += " " + e.Tool
	}
	if e.To != "" {
		what += " " + strings.TrimSpace(e.From+" > "+e.To)
	}
	took := ""
	if e.Micros > 0 {
		took = (time.Duration(e.Micros) * time.Microsecond).Round(100 * time.Microsecond).String()
	}
	at, _, _ := strings.Cut(e.Time, ".")
	line := strings.TrimRight(strings.Map(printable, fmt.Sprintf("%-20s  %-16s  %-20s  %-28s  %s", strings.TrimSuffix(at, "Z")+"Z", cmp.Or(e.Principal, "-"), cmp.Or(e.Sandbox, "-"), what,
		strings.Join(strings.Fields(e.Detail+" "+took+" "+e.Arguments), " "))), " ")
	_, err := fmt.Fprintln(out, cli.Lines(out, line))
	return err
}

// printable replaces what a terminal would obey.
func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return '?'
}

// exportEvent writes an event for programs.
func exportEvent(out io.Writer, e tools.Event) error {
	line := struct {
		tools.Event
		Arguments json.RawMessage `json:"arguments,omitempty"`
	}{e, json.RawMessage(e.Arguments)}
	return json.NewEncoder(out).Encode(line)
}
