package cli

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// completeTime is how long somebody who presses the tabulator is let wait.
const completeTime = time.Second

// complete asks a daemon that runs; it starts none, and says nothing of what
// goes wrong.
func complete(cmd *cobra.Command, host Host, ask func(ctx context.Context, c *Client) []cobra.Completion) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completeTime)
	defer cancel()
	answers := make(chan []cobra.Completion, 1)
	go func() {
		c, err := open(ctx, host, Want{NoStart: true}, io.Discard)
		if err != nil {
			answers <- nil
			return
		}
		defer c.Close()
		answers <- ask(ctx, c)
	}()
	select {
	case found := <-answers:
		return found, cobra.ShellCompDirectiveNoFileComp
	case <-ctx.Done():
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeSandboxes completes the first most arguments with ids and names of
// sandboxes, or all of them if most is 0.
func completeSandboxes(host Host, most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, given []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if most > 0 && len(given) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(cmd, host, func(ctx context.Context, c *Client) (found []cobra.Completion) {
			list, _ := all[sandbox](ctx, c) // there is nothing to complete then
			for _, sb := range list.Sandboxes {
				if strings.HasPrefix(sb.ID, prefix) {
					found = append(found, cobra.CompletionWithDesc(sb.ID, strings.TrimSpace(sb.Name+" "+upper(sb.State))))
				}
				if sb.Name != "" && strings.HasPrefix(sb.Name, prefix) {
					found = append(found, cobra.CompletionWithDesc(sb.Name, upper(sb.State)))
				}
			}
			return found
		})
	}
}

// completeProfiles completes with what create_sandbox takes as a profile.
func completeProfiles(host Host) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return complete(cmd, host, func(ctx context.Context, c *Client) (found []cobra.Completion) {
			list, err := c.session.ListTools(ctx, nil)
			if err != nil {
				return nil
			}
			for _, tool := range list.Tools {
				if tool.Name != "create_sandbox" {
					continue
				}
				for _, name := range enumOf(tool.InputSchema, "profile") {
					if strings.HasPrefix(name, prefix) {
						found = append(found, name)
					}
				}
			}
			return found
		})
	}
}

// enumOf returns the values that a schema allows for a property.
func enumOf(schema any, property string) []string {
	var s struct {
		Properties map[string]struct {
			Enum []string `json:"enum"`
		} `json:"properties"`
	}
	if text, err := json.Marshal(schema); err == nil {
		_ = json.Unmarshal(text, &s)
	}
	return s.Properties[property].Enum
}
