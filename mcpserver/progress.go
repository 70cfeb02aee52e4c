package mcpserver

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/agentlab-mcp/agentlab/tools"
)

// When a client is told that a call goes on.
const (
	progressFirst = 2 * time.Second
	progressEvery = 5 * time.Second
)

// StepKey is the key in the _meta of a notification about progress under which
// the step is that the work is at, for programs.
const StepKey = "agentlab.dev/step"

// progress tells the client that the work goes on and how far it is, if it
// wants to know: each step as it comes, and every few seconds how long it has
// taken. It stops when the function that it returns has returned. The work says
// in the context how far it is: the step and, after a comma, details of it.
func (s *Server) progress(ctx context.Context, w work) (working context.Context, stop func()) {
	client := server.ClientSessionFromContext(ctx)
	if w.meta == nil || w.meta.ProgressToken == nil || client == nil {
		return ctx, func() {}
	}
	p := teller{start: time.Now(), steps: make(chan string, mostSteps), doing: w.doing}
	p.send = func(params mcp.NotificationParams) {
		params.AdditionalFields["progressToken"] = w.meta.ProgressToken
		select {
		case client.NotificationChannel() <- mcp.JSONRPCNotification{JSONRPC: mcp.JSONRPC_VERSION, Notification: mcp.Notification{
			Method: "notifications/progress", Params: params,
		}}:
		default: // the client reads too slowly: the next one will tell it
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.run(ctx)
	}()
	return tools.WithReport(ctx, p.report), func() { cancel(); <-done }
}

// mostSteps is how many steps may come faster than they are told.
const mostSteps = 16

// teller tells of the progress of one call.
type teller struct {
	doing string
	send  func(mcp.NotificationParams)
	start time.Time

	now   atomic.Pointer[string] // the step with its details
	steps chan string

	told  string  // the last step sent to steps
	least float64 // of the next number
}

// report is called by the work, one call after the other. Details change often
// where many wait, so that only a new step is told at once.
func (p *teller) report(now string) {
	p.now.Store(&now)
	if step, _, _ := strings.Cut(now, ","); step != p.told {
		p.told = step
		select {
		case p.steps <- now:
		default: // the next one will tell it
		}
	}
}

// run tells until ctx ends, and then what is left to tell.
func (p *teller) run(ctx context.Context) {
	tick := time.NewTimer(progressFirst)
	defer tick.Stop()
	for {
		select {
		case step := <-p.steps:
			p.tell(step)
		case <-tick.C:
			tick.Reset(progressEvery)
			step := ""
			if now := p.now.Load(); now != nil {
				step = *now
			}
			p.tell(step)
		case <-ctx.Done():
			for len(p.steps) > 0 {
				p.tell(<-p.steps)
			}
			return
		}
	}
}

// tell sends one notification. Its number increases, as the protocol wants it.
func (p *teller) tell(now string) {
	const milli = 1000
	elapsed := time.Since(p.start)
	seconds := max(math.Round(elapsed.Seconds()*milli)/milli, p.least)
	p.least = seconds + 1./milli
	doing, params := p.doing, mcp.NotificationParams{}
	if now != "" {
		step, _, _ := strings.Cut(now, ",")
		doing += ": " + now
		params.Meta = map[string]any{StepKey: step}
	}
	params.AdditionalFields = map[string]any{"progress": seconds, "message": fmt.Sprintf("%s, %d s", doing, int(elapsed.Seconds()))}
	p.send(params)
}
