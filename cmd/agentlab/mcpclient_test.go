package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/sync/errgroup"
)

// mcpMain is the command mcp of the scripts: a client that launches
// "agentlab mcp" as any client does.
//
//	mcp [-until REGEXP] [-allow DIR] [TOOL ARGUMENTS]...
//	mcp -cancel -until REGEXP TOOL ARGUMENTS [TOOL ARGUMENTS]...
//	mcp -bridges N
//	mcp -move TO FROM
//
// It prints "TOOL ok TEXT" or "TOOL error TEXT" a call. $ID and $PROC in the
// arguments are the last sandbox and process that a call in this directory
// told; $TRACEPARENT, if it is set, is the trace that the calls are of. With -until it repeats the calls until the text matches. With -cancel
// the first call goes on meanwhile, and is cancelled then.
func mcpMain() {
	until := flag.String("until", "", "repeat until the output matches")
	cancelled := flag.Bool("cancel", false, "cancel the first call in the end")
	allow := flag.String("allow", "", "a directory for --allow-host-dir")
	ends := flag.Bool("ends", false, "the daemon may end before the client, which then closes what is broken")
	bridges := flag.Int("bridges", 0, "how many clients at once")
	move := flag.String("move", "", "rename FROM to this while connected, and wait until told that the tools have changed")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var err error
	switch {
	case *bridges > 0:
		err = clients(ctx, *bridges)
	case *move != "":
		err = watched(ctx, flag.Arg(0), *move)
	case *cancelled:
		err = cancelFirst(ctx, flag.Args(), regexp.MustCompile(*until))
	default:
		err = calls(ctx, *allow, flag.Args(), regexp.MustCompile(*until))
	}
	if exit := (*exec.ExitError)(nil); *ends && errors.As(err, &exit) { // of the bridge, at its close
		err = nil
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// bridged is a client with the bridge that it has launched.
type bridged struct {
	*mcp.ClientSession
	bridge *os.Process
}

func connect(ctx context.Context, args ...string) (bridged, error) {
	cmd := exec.Command("agentlab", append([]string{"mcp"}, args...)...)
	cmd.Stderr = os.Stderr
	client := mcp.NewClient(&mcp.Implementation{Name: "script", Version: "1"}, nil)
	s, err := client.Connect(ctx, &mcp.CommandTransport{Command: cmd, TerminateDuration: 2 * stuckAfter}, nil)
	return bridged{s, cmd.Process}, err
}

// stuckAfter is how long a bridge may take to end that has nothing more to do.
const stuckAfter = 30 * time.Second

// Close waits until the bridge has ended. One that is stuck says where.
func (b bridged) Close() error {
	timer := time.AfterFunc(stuckAfter, func() { _ = b.bridge.Signal(syscall.SIGQUIT) })
	defer timer.Stop()
	return b.ClientSession.Close()
}

// clients starts n of them at once; each must be served.
func clients(ctx context.Context, n int) error {
	group, ctx := errgroup.WithContext(ctx)
	for range n {
		group.Go(func() error {
			s, err := connect(ctx)
			if err != nil {
				return err
			}
			list, err := s.ListTools(ctx, nil)
			if err != nil {
				return err
			}
			if len(list.Tools) != 14 {
				return fmt.Errorf("got %d tools, want 14", len(list.Tools))
			}
			return s.Close()
		})
	}
	return group.Wait()
}

// cancelFirst begins the first call, does the others until they match, and
// cancels the first, which must not have ended before.
func cancelFirst(ctx context.Context, args []string, until *regexp.Regexp) error {
	s, err := connect(ctx)
	if err != nil {
		return err
	}
	first, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- call(first, s.ClientSession, args[0], args[1], new(strings.Builder)) }()
	if err := calls(ctx, "", args[2:], until); err != nil {
		return err
	}
	select {
	case err := <-ended:
		return fmt.Errorf("%s ended before it was cancelled, with the error %v", args[0], err)
	default:
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s ended with the error %v, not by being cancelled", args[0], err)
	}
	if err := s.Ping(ctx, nil); err != nil { // what comes after it is served
		return err
	}
	return s.Close()
}

func calls(ctx context.Context, allow string, args []string, until *regexp.Regexp) error {
	var flags []string
	if allow != "" {
		flags = []string{"--allow-host-dir", allow}
	}
	s, err := connect(ctx, flags...)
	if err != nil {
		return err
	}
	for {
		var out strings.Builder
		for i := 0; i+1 < len(args); i += 2 {
			if err := call(ctx, s.ClientSession, args[i], args[i+1], &out); err != nil {
				return err
			}
		}
		if until.MatchString(out.String()) {
			fmt.Print(out.String())
			return s.Close()
		}
		if ctx.Err() != nil {
			return fmt.Errorf("no %v in the last output:\n%s", until, out.String())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func call(ctx context.Context, s *mcp.ClientSession, tool, args string, out *strings.Builder) error {
	args = os.Expand(args, func(name string) string {
		value, _ := os.ReadFile("." + name)
		return string(value)
	})
	params := &mcp.CallToolParams{Name: tool, Arguments: json.RawMessage(args)}
	if trace := os.Getenv("TRACEPARENT"); trace != "" {
		params.Meta = mcp.Meta{"traceparent": trace}
	}
	res, err := s.CallTool(ctx, params)
	if err != nil {
		return fmt.Errorf("%s %s: %w", tool, args, err)
	}
	outcome := "ok"
	if res.IsError {
		outcome = "error"
	}
	fmt.Fprintf(out, "%s %s", tool, outcome)
	for _, c := range res.Content {
		if t, ok := c.(*mcp.TextContent); ok {
			fmt.Fprintf(out, " %s", t.Text)
		}
	}
	fmt.Fprintln(out)
	return remember(res)
}

// remember keeps the ids that a result told for later calls.
func remember(res *mcp.CallToolResult) error {
	told, err := json.Marshal(map[string]any{"s": res.StructuredContent, "m": res.Meta})
	if err != nil {
		return err
	}
	for file, key := range map[string]string{".ID": "sandbox_id", ".PROC": "process_id"} {
		m := regexp.MustCompile(`"` + key + `":"([^"]+)"`).FindSubmatch(told)
		if m == nil {
			continue
		}
		if err := os.WriteFile(file, m[1], 0o600); err != nil {
			return err
		}
	}
	return nil
}
