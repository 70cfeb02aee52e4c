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
	// movedEvery is how often a program is told that bytes have moved.
	movedEvery = 200 * time.Millisecond
)

// StepKey is the key in the _meta of a notification about progress under which
// the step is that the work is at, for programs.
const StepKey = "agentlab.dev/step"

// MovedKey is that under which the bytes are that have been copied, a [tools.Moved].
// If it is known how many there are, they are the progress of the notification too.
const MovedKey = "agentlab.dev/moved"

// progress tells the client that the work goes on and how far it is, if it
// wants to know: each step as it comes, and every few seconds how long it has
// taken. It stops when the function that it returns has returned. The work says
// in the context how far it is: the step and, after a comma, details of it.
func (s *Server) progress(ctx context.Context, w work) (working context.Context, stop func()) {
	client := server.ClientSessionFromContext(ctx)
	if w.meta == nil || w.meta.ProgressToken == nil || client == nil {
		return ctx, func() {}
	}
	p := teller{start: time.Now(), steps: make(chan string, mostSteps), moves: make(chan struct{}, 1), doing: w.doing, quick: w.meta.AdditionalFields[tools.BytesKey] == true}
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
	return tools.WithMoved(tools.WithReport(ctx, p.report), p.move), func() { cancel(); <-done }
}

// mostSteps is how many steps may come faster than they are told.
const mostSteps = 16

// teller tells of the progress of one call.
type teller struct {
	doing string
	send  func(mcp.NotificationParams)
	start time.Time
	quick bool // the client is a program

	now   atomic.Pointer[string] // the step with its details
	moved atomic.Pointer[tools.Moved]
	steps chan string
	moves chan struct{} // has a value when the first bytes are about to move

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

// move is called by the work with each piece that it has moved.
func (p *teller) move(m tools.Moved) {
	if p.moved.Swap(&m) == nil {
		p.moves <- struct{}{}
	}
}

// run tells until ctx ends, and then what is left to tell.
func (p *teller) run(ctx context.Context) {
	tick := time.NewTimer(progressFirst)
	defer tick.Stop()
	var moves <-chan time.Time // a program is told of these by and by
	var told *tools.Moved
	for {
		select {
		case <-p.moves:
			if p.quick {
				often := time.NewTicker(movedEvery)
				defer often.Stop()
				told, moves = p.moved.Load(), often.C
				p.tell(p.step())
			}
		case <-moves:
			if now := p.moved.Load(); now != told {
				told = now
				p.tell(p.step())
			}
		case step := <-p.steps:
			p.tell(step)
		case <-tick.C:
			tick.Reset(progressEvery)
			p.tell(p.step())
		case <-ctx.Done():
			for len(p.steps) > 0 {
				p.tell(<-p.steps)
			}
			return
		}
	}
}

// step is the one that the work is at; empty is none.
func (p *teller) step() string {
	if now := p.now.Load(); now != nil {
		return *now
	}
	return ""
}

// tell sends one notification. Its number increases, as the protocol wants it.
func (p *teller) tell(now string) {
	const milli = 1000
	elapsed := time.Since(p.start)
	progress := math.Round(elapsed.Seconds()*milli) / milli
	doing, meta, fields := p.doing, map[string]any{}, map[string]any{}
	if now != "" {
		step, _, _ := strings.Cut(now, ",")
		doing += ": " + now
		meta[StepKey] = step
	}
	if m := p.moved.Load(); m != nil {
		meta[MovedKey] = m
		doing += fmt.Sprintf(": %d bytes", m.Done)
		if m.Total > 0 {
			progress, fields["total"] = float64(m.Done), m.Total
			doing += fmt.Sprintf(" of %d", m.Total)
		}
	}
	progress = max(progress, p.least)
	p.least = progress + 1./milli
	fields["progress"], fields["message"] = progress, fmt.Sprintf("%s, %d s", doing, int(elapsed.Seconds()))
	p.send(mcp.NotificationParams{Meta: meta, AdditionalFields: fields})
}
