package serve

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// caller serves the short calls of a session.
type caller struct {
	*hostSession
	out *wire.Sender

	mu      sync.Mutex
	cancels map[uint64]context.CancelFunc
}

// calls serves the connection of kind wire.Calls. The session ends with it,
// unless the machine has become another's: then it returns the session of the new
// generation, as which the connection goes on.
func (h *hostSession) calls(nc net.Conn, in *bufio.Reader) *hostSession {
	if !h.unused.Stop() {
		return nil // the time is over, or there is one already
	}
	k := &caller{hostSession: h, cancels: map[uint64]context.CancelFunc{}}
	k.out = wire.NewSender(nc, h.ctx.Done(), func(error) { h.finish() })
	for {
		var req wire.Request
		if err := wire.ReadFrame(in, &req); err != nil {
			h.finish()
			return nil
		}
		switch req.Op {
		case wire.OpCancel:
			k.cancelCall(req.ID)
			continue
		case wire.OpRekey:
			if next := k.becomeAnothers(req); next != nil {
				return next
			}
			continue
		}
		ctx := k.begin(req)
		go func() {
			defer k.cancelCall(req.ID)
			result, err := k.dispatch(ctx, req)
			k.answer(req.ID, result, err)
		}()
	}
}

// becomeAnothers answers a call of kind wire.OpRekey, and returns the session of
// the new generation once that answer has left; nil if there is none.
func (k *caller) becomeAnothers(req wire.Request) (next *hostSession) {
	result, err := call(req, func(r guest.Rekey) (result any, err error) {
		result, next, err = k.rekey(k.generation, r)
		return result, err
	})
	k.answer(req.ID, result, err)
	ctx, cancel := context.WithTimeout(k.ctx, lingerTime)
	defer cancel()
	k.out.Flush(ctx)
	return next
}

// begin returns the context of a call. That of OpStart outlives the
// connection: its end would kill the process.
func (k *caller) begin(req wire.Request) context.Context {
	parent := k.ctx
	if req.Op == wire.OpStart {
		parent = context.WithoutCancel(parent)
	}
	ctx, cancel := context.WithCancel(parent)
	k.mu.Lock()
	k.cancels[req.ID] = cancel
	k.mu.Unlock()
	return ctx
}

func (k *caller) cancelCall(id uint64) {
	k.mu.Lock()
	cancel := k.cancels[id]
	delete(k.cancels, id)
	k.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

func (k *caller) answer(id uint64, result any, err error) {
	frame, err := encode(wire.Answer{ID: id, Err: wire.ToError(err)}, result)
	if err != nil {
		k.Log.Error("encode answer", "err", err)
		if frame, err = encode(wire.Answer{ID: id, Err: wire.ToError(err)}, nil); err != nil {
			return
		}
	}
	_ = k.out.Send(k.ctx, frame) // fails with the session
}

func encode(a wire.Answer, result any) (frame []byte, err error) {
	if a.Err == nil {
		if a.Result, err = json.Marshal(result); err != nil {
			return nil, err
		}
	}
	return wire.Frame(a)
}

func (k *caller) dispatch(ctx context.Context, req wire.Request) (any, error) {
	switch req.Op {
	case wire.OpPing:
		return nil, nil
	case wire.OpStart:
		return call(req, func(r wire.StartRequest) (any, error) {
			return process(k.Table.Start(ctx, r.Cmd.Guest(), r.Options))
		})
	case wire.OpRead:
		return call(req, func(r wire.ReadProcess) (any, error) {
			return process(k.Table.Read(ctx, r.ID, r.Req))
		})
	case wire.OpControl:
		return call(req, func(r wire.ControlProcess) (any, error) {
			p, err := k.Table.Control(ctx, r.ID, r.In)
			return process(p, guest.Output{}, err)
		})
	case wire.OpList:
		list, err := k.Table.List(ctx)
		return processes(list), err
	case wire.OpFiles:
		return call(req, func(r wire.FilesRequest) (any, error) {
			l, err := k.Files.List(ctx, string(r.Path), guest.ListOptions{Pattern: string(r.Pattern), Depth: r.Depth, Limit: r.Limit})
			return listing(l), err
		})
	}
	return nil, fmt.Errorf("unknown call %q", req.Op)
}

// call decodes the arguments of req for do.
func call[T any](req wire.Request, do func(T) (any, error)) (any, error) {
	var args T
	if err := json.Unmarshal(req.Args, &args); err != nil {
		return nil, fmt.Errorf("decode %s: %w", req.Op, err)
	}
	return do(args)
}

func process(p guest.Process, out guest.Output, err error) (any, error) {
	return wire.ProcessResult{Process: wire.FromProcess(p), Output: out}, err
}

func processes(list []guest.Process) wire.ListResult {
	out := wire.ListResult{Processes: make([]wire.Process, len(list))}
	for i, p := range list {
		out.Processes[i] = wire.FromProcess(p)
	}
	return out
}

func listing(l guest.Listing) wire.FilesResult {
	out := wire.FilesResult{Files: make([]wire.FileInfo, len(l.Files)), Total: l.Total, More: l.More}
	for i, f := range l.Files {
		out.Files[i] = wire.FromFileInfo(f)
	}
	return out
}
