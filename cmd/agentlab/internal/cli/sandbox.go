package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// sandbox is one as the tools tell of it; what is not shown is left out.
type sandbox struct {
	ID      string    `json:"sandbox_id"`
	Name    string    `json:"name"`
	Profile string    `json:"profile"`
	State   string    `json:"state"`
	Reason  string    `json:"reason"`
	Place   int       `json:"place_in_line"`
	Created time.Time `json:"created_at"`
	Expires time.Time `json:"expires_at"`
	IP      string    `json:"ip"`
	VMID    int       `json:"vmid"`
	OS      string    `json:"os"`
}

// coming says that it is on its way to be ready.
func (s sandbox) coming() bool {
	return s.State == "requested" || s.State == "provisioning" || s.State == "booting"
}

// page is an answer of list_sandboxes, with its sandboxes read as T.
type page[T any] struct {
	Sandboxes  []T               `json:"sandboxes"`
	NextAfter  string            `json:"next_after,omitempty"`
	NotRemoved []json.RawMessage `json:"not_removed,omitempty"`
	Processes  []json.RawMessage `json:"processes,omitempty"`
}

// all returns the live sandboxes, of all pages.
func all[T any](ctx context.Context, c *Client) (page[T], error) {
	whole := page[T]{Sandboxes: []T{}}
	for after := ""; ; {
		var next page[T]
		if err := c.Call(ctx, "list_sandboxes", args{"after": after}, &next); err != nil {
			return page[T]{}, err
		}
		whole.Sandboxes = append(whole.Sandboxes, next.Sandboxes...)
		whole.NotRemoved = append(whole.NotRemoved, next.NotRemoved...)
		if after = next.NextAfter; after == "" {
			return whole, nil
		}
	}
}

// decode reads each of a list.
func decode[T any](raw []json.RawMessage) ([]T, error) {
	list := make([]T, len(raw))
	for i := range raw {
		if err := json.Unmarshal(raw[i], &list[i]); err != nil {
			return nil, fmt.Errorf("read the answer: %w", err)
		}
	}
	return list, nil
}

func newListCommand(host Host) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the live sandboxes, the oldest first",
		Long:    "List the live sandboxes, the oldest first.\n" + exitCodes,
		Args:    cobra.NoArgs,
		RunE: run(host, "", func(ctx context.Context, cmd *cobra.Command, c *Client, _ []string) error {
			if asJSON {
				list, err := all[json.RawMessage](ctx, c)
				if err != nil {
					return err
				}
				return writeJSON(cmd.OutOrStdout(), list)
			}
			list, err := all[sandbox](ctx, c)
			if err != nil {
				return err
			}
			if len(list.Sandboxes) == 0 {
				_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "agentlab: no sandboxes; agentlab sandbox new makes one")
			} else if err := printSandboxes(cmd.OutOrStdout(), list.Sandboxes, time.Now()); err != nil {
				return err
			}
			return warnOfStuck(cmd.ErrOrStderr(), list.NotRemoved)
		}),
	}
	addJSON(cmd, &asJSON)
	return cmd
}

// warnOfStuck tells of what has ended and is still there.
func warnOfStuck(stderr io.Writer, list []json.RawMessage) error {
	stuck, err := decode[struct {
		ID      string `json:"sandbox_id"`
		Problem string `json:"problem"`
	}](list)
	for _, s := range stuck {
		_, _ = fmt.Fprintf(stderr, "agentlab: %s has ended, but its machine is not removed yet: %s\n", s.ID, s.Problem)
	}
	return err
}

func newShowCommand(host Host) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "show ID|NAME",
		Short:             "Show a sandbox and its processes",
		Long:              "Show a sandbox and its processes: the running and the last that ended.\n" + exitCodes,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeSandboxes(host, 1),
		RunE: named(host, 1, "", func(ctx context.Context, cmd *cobra.Command, c *Client, ids []string) error {
			var one page[json.RawMessage]
			if err := c.Call(ctx, "list_sandboxes", args{"sandbox_id": ids[0]}, &one); err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), one)
			}
			boxes, err := decode[sandbox](one.Sandboxes)
			if err != nil || len(boxes) != 1 {
				return fmt.Errorf("list_sandboxes: want one sandbox, got %d: %w", len(boxes), err)
			}
			if err := printSandbox(cmd.OutOrStdout(), boxes[0], time.Now()); err != nil {
				return err
			}
			processes, err := decode[process](one.Processes)
			if err != nil || len(processes) == 0 {
				return err
			}
			if _, err := fmt.Fprintln(cmd.OutOrStdout()); err != nil {
				return err
			}
			return printProcesses(cmd.OutOrStdout(), processes)
		}),
	}
	addJSON(cmd, &asJSON)
	return cmd
}

func newExtendCommand(host Host) *cobra.Command {
	var ttl time.Duration
	var whole int // ttl in seconds
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "extend ID|NAME",
		Short:             "Move the end of a sandbox",
		Long:              "Move the end of a sandbox to --ttl from now, at most to what its profile allows.\n" + exitCodes,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeSandboxes(host, 1),
		PreRunE: func(*cobra.Command, []string) (err error) {
			whole, err = seconds("ttl", ttl)
			return err
		},
		RunE: named(host, 1, "", func(ctx context.Context, cmd *cobra.Command, c *Client, ids []string) error {
			var done map[string]any
			if err := c.Call(ctx, "extend_ttl", args{"sandbox_id": ids[0], "ttl_seconds": whole}, &done); err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), done)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s lives until %v, at most until %v\n", ids[0], done["expires_at"], done["max_expires_at"])
			return err
		}),
	}
	cmd.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long from now")
	addJSON(cmd, &asJSON)
	return cmd
}

func newDestroyCommand(host Host) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "destroy ID|NAME...",
		Aliases:           []string{"rm"},
		Short:             "Destroy sandboxes with all that is in them",
		Long:              "Destroy sandboxes with all that is in them. An id that is gone already is no error, a\nname that no live sandbox has is one, and then nothing is destroyed.\n" + exitCodes,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeSandboxes(host, 0),
		RunE: named(host, 0, "; a sandbox that is being destroyed goes nevertheless", func(ctx context.Context, cmd *cobra.Command, c *Client, ids []string) error {
			for _, id := range ids {
				var done map[string]any
				if err := c.Call(ctx, "destroy", args{"sandbox_id": id}, &done); err != nil {
					return err
				}
				text := " is destroyed"
				if done["already_gone"] == true {
					text = " was gone already"
				}
				if asJSON {
					if err := writeJSON(cmd.OutOrStdout(), done); err != nil {
						return err
					}
				} else if _, err := fmt.Fprintln(cmd.OutOrStdout(), id+text); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	addJSON(cmd, &asJSON)
	return cmd
}

func addJSON(cmd *cobra.Command, asJSON *bool) {
	cmd.Flags().BoolVar(asJSON, "json", false, "print what the tool answers, as JSON")
}

func writeJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// upper is a state as people are used to see it.
func upper(state string) string { return strings.ToUpper(state) }
