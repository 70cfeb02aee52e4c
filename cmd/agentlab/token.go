package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab/internal/cli"
	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

func newTokenCommand(locate func() (config.Paths, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke the bearer tokens of clients over HTTP",
		Long: `Make, list and revoke the bearer tokens of clients over HTTP.

The daemon of this user does it, and is started if none runs.
` + exitCodes,
	}
	return cli.Group(cmd, newTokenCreateCommand(locate), newTokenListCommand(locate), newTokenRevokeCommand(locate))
}

// tokenRequest is what a token is to be.
type tokenRequest struct {
	name   string
	scopes []string
	ttl    time.Duration
	quota  sessions.Quota
	out    string // file; empty is standard output
}

func newTokenCreateCommand(locate func() (config.Paths, error)) *cobra.Command {
	const days = 24 * time.Hour
	var req tokenRequest
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a token",
		Long: `Make a token and print it on standard output, or write it to a new file that
only you can read. It is not shown again: what is kept can't be turned back into it.

Each token is somebody else: it has sandboxes of its own, which no other token
sees, also not a later one of the same name.
` + exitCodes,
		Args: cobra.ExactArgs(1),
		RunE: cli.Interruptible("; agentlab token list shows whether it was made", func(cmd *cobra.Command, args []string) error {
			req.name = args[0]
			if req.ttl != 0 && req.ttl < time.Second {
				return fmt.Errorf("--ttl: got %v, want 0 (for ever) or at least 1s", req.ttl)
			}
			admin, err := newAdminClient(cmd, locate)
			if err != nil {
				return err
			}
			defer admin.Close()
			return fail(exitFailed, admin.create(cmd.Context(), req, cmd.OutOrStdout(), cmd.ErrOrStderr()))
		}),
	}
	f := cmd.Flags()
	f.StringSliceVar(&req.scopes, "scope", []string{string(sessions.ScopeRead), string(sessions.ScopeWrite)}, "what it may do: sandbox:read, sandbox:write, admin")
	f.DurationVar(&req.ttl, "ttl", 90*days, "how long it counts; 0 is for ever")
	f.IntVar(&req.quota.Sandboxes, "quota-sandboxes", 0, "its sandboxes at a time; 0 is quota_sandboxes of the configuration")
	f.IntVar(&req.quota.MemoryMB, "quota-memory-mb", 0, "memory of its sandboxes together; 0 is quota_memory_mb of the configuration")
	f.StringVar(&req.out, "out", "", "file to write it to; one that is there is not overwritten")
	return cmd
}

// create makes a token and hands it over. If that fails there is none.
func (a adminClient) create(ctx context.Context, req tokenRequest, stdout, stderr io.Writer) error {
	signal.Ignore(syscall.SIGPIPE) // to outlive a reader that is gone, and revoke
	deliver := func(secret string) error {
		_, err := fmt.Fprintln(stdout, secret)
		return err
	}
	if req.out != "" {
		file, err := os.OpenFile(req.out, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600) // before there is a token
		if err != nil {
			return fmt.Errorf("--out: %w", err)
		}
		deliver = func(secret string) error {
			_, err := fmt.Fprintln(file, secret)
			return errors.Join(err, file.Close())
		}
	}
	made, err := a.createAndDeliver(ctx, req, deliver)
	if err != nil {
		if req.out != "" {
			_ = os.Remove(req.out) // ours: it was not there before
		}
		return err
	}
	_, _ = fmt.Fprintf(stderr, "agentlab: token %s (%s) is not shown again; it expires: %s\n", made.Name, made.TokenID, orNever(made.ExpiresAt))
	return nil
}

func (a adminClient) createAndDeliver(ctx context.Context, req tokenRequest, deliver func(secret string) error) (made tools.TokenCreated, err error) {
	err = a.Call(ctx, "token_create", map[string]any{
		"name": req.name, "scopes": strings.Join(req.scopes, " "), "lifetime_seconds": int(req.ttl / time.Second),
		"quota_sandboxes": req.quota.Sandboxes, "quota_memory_mb": req.quota.MemoryMB,
	}, &made)
	if err != nil {
		return made, err
	}
	if err := deliver(made.Secret); err != nil {
		var revoked tools.TokenRevoked
		return made, errors.Join(fmt.Errorf("hand over the token, which is revoked again: %w", err), a.Call(context.WithoutCancel(ctx), "token_revoke", map[string]any{"token": made.TokenID}, &revoked))
	}
	return made, nil
}

func newTokenListCommand(locate func() (config.Paths, error)) *cobra.Command {
	var all, asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the tokens, without their secrets",
		Args:  cobra.NoArgs,
		RunE: cli.Interruptible("", func(cmd *cobra.Command, _ []string) error {
			admin, err := newAdminClient(cmd, locate)
			if err != nil {
				return err
			}
			defer admin.Close()
			var list tools.TokenList
			if err := admin.Call(cmd.Context(), "token_list", map[string]any{}, &list); err != nil {
				return fail(exitFailed, err)
			}
			shown := []tools.Token{}
			for _, t := range list.Tokens {
				if all || t.RevokedAt == "" {
					shown = append(shown, t)
				}
			}
			if asJSON {
				return fail(exitFailed, writeJSON(cmd.OutOrStdout(), tools.TokenList{Tokens: shown}))
			}
			return fail(exitFailed, printTokens(cmd.OutOrStdout(), shown))
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "also those that were revoked")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func printTokens(out io.Writer, list []tools.Token) error {
	shown := cli.Table{Header: []string{"NAME", "ID", "STATE", "SCOPES", "EXPIRES", "LAST USED", "SANDBOXES", "MEMORY MB"}}
	for _, t := range list {
		shown.Rows = append(shown.Rows, []string{
			t.Name, t.TokenID, t.State, t.Scopes, orNever(t.ExpiresAt), orNever(t.UsedAt), orDefault(t.Sandboxes), orDefault(t.MemoryMB),
		})
	}
	return shown.Print(out)
}

func orNever(when string) string {
	if when == "" {
		return "never"
	}
	return when
}

func orDefault(n int) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func newTokenRevokeCommand(locate func() (config.Paths, error)) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME|ID",
		Short: "Revoke a token",
		Long: `Revoke a token. Its next call is refused, and what it has running is cancelled.
Its sandboxes stay until their end, and nobody can use them. To revoke one that
was revoked before is no error.
` + exitCodes,
		Args: cobra.ExactArgs(1),
		RunE: cli.Interruptible("; agentlab token list shows whether it was revoked", func(cmd *cobra.Command, args []string) error {
			admin, err := newAdminClient(cmd, locate)
			if err != nil {
				return err
			}
			defer admin.Close()
			var done tools.TokenRevoked
			if err := admin.Call(cmd.Context(), "token_revoke", map[string]any{"token": args[0]}, &done); err != nil {
				return fail(exitFailed, err)
			}
			text := "was revoked already"
			if done.Revoked > 0 {
				text = "is revoked"
			}
			_, err = fmt.Fprintln(cmd.ErrOrStderr(), "agentlab:", args[0], text)
			return fail(exitFailed, err)
		}),
	}
}
