package cli

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

// idForm is how ids look that AgentLab gives. Whoever makes a sandbox may name it
// like the id of another; the id counts then.
var idForm = regexp.MustCompile(`^sb-[a-z2-7]{20}$`)

// Resolve returns the ids of the sandboxes that were given by id or by name, or
// an error that says which of them is nobody's name. Of two live sandboxes of one
// owner no more than one has a name.
func (c *Client) Resolve(ctx context.Context, given ...string) ([]string, error) {
	ids := make([]string, len(given))
	var names map[string]string
	for i, word := range given {
		if ids[i] = word; idForm.MatchString(word) {
			continue
		}
		if names == nil {
			var err error
			if names, err = c.names(ctx); err != nil {
				return nil, err
			}
		}
		if id, ok := names[word]; ok {
			ids[i] = id
		} else if !strings.HasPrefix(word, "sb-") { // else whoever is asked says that there is no such id
			return nil, Failure{exitNotFound, fmt.Errorf("no live sandbox of yours has the name %q; agentlab sandbox list shows yours", word)}
		}
	}
	return ids, nil
}

// names returns the ids of the live sandboxes that have a name, by that.
func (c *Client) names(ctx context.Context) (map[string]string, error) {
	list, err := all[sandbox](ctx, c)
	if err != nil {
		return nil, err
	}
	names := make(map[string]string, len(list.Sandboxes))
	for _, sb := range list.Sandboxes {
		if sb.Name != "" {
			names[sb.Name] = sb.ID
		}
	}
	return names, nil
}

// named makes the RunE of a command whose first arguments, at most most or all if
// that is 0, are sandboxes: f is given their ids.
func named(host Host, most int, interrupted string, f body) func(*cobra.Command, []string) error {
	return run(host, interrupted, func(ctx context.Context, cmd *cobra.Command, c *Client, given []string) error {
		n := most
		if n == 0 {
			n = len(given)
		}
		ids, err := c.Resolve(ctx, given[:n]...)
		if err != nil {
			return err
		}
		return f(ctx, cmd, c, append(ids, given[n:]...))
	})
}
