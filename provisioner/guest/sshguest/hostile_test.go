package sshguest_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/sshguest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// hostile is a real SSH server with the right key that misbehaves once there is
// a session.
type hostile struct {
	calls  func(nc net.Conn)          // serves the short calls; nil answers none
	stream func(nc net.Conn)          // serves each other connection
	raw    func(nc net.Conn) net.Conn // what a connection is wrapped in
}

// conn returns a Conn to h that waits for little.
func (h hostile) conn(t *testing.T) *sshguest.Conn {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	check(t, err)
	signer, err := ssh.NewSignerFromSigner(private)
	check(t, err)
	hostKey, err := ssh.NewPublicKey(public)
	check(t, err)
	session := wire.MakeSession()
	c := sshguest.New(sshguest.Config{
		HostKey: hostKey, Signer: signer, KeepAlive: 50 * time.Millisecond, DialTimeout: 2 * time.Second,
		Dial: func(context.Context) (net.Conn, error) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return nil, err
			}
			defer l.Close()
			ours, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return nil, err
			}
			theirs, err := l.Accept()
			if err != nil {
				return nil, err
			}
			t.Cleanup(func() { _ = theirs.Close() })
			go h.serve(theirs, signer, session)
			return ours, nil
		},
	})
	t.Cleanup(func() { check(t, c.Close()) })
	return c
}

func (h hostile) serve(nc net.Conn, key ssh.Signer, session *wire.Session) {
	if h.raw != nil {
		nc = h.raw(nc)
	}
	joins, nc, err := wire.Joins(nc)
	if err != nil {
		return
	}
	if !joins {
		h.door(nc, key, session)
		return
	}
	if _, err := wire.Accept(nc, func(wire.ID) *wire.Session { return session }); err != nil {
		return
	}
	var open wire.Open
	if wire.ReadFrame(nc, &open) != nil {
		return
	}
	switch {
	case open.For != wire.Calls:
		h.stream(nc)
	case h.calls != nil:
		h.calls(nc)
	}
}

// door gives out the session over SSH.
func (h hostile) door(nc net.Conn, key ssh.Signer, session *wire.Session) {
	cfg := &ssh.ServerConfig{ServerVersion: wire.Version, NoClientAuth: true}
	cfg.AddHostKey(key)
	_, _, requests, err := ssh.NewServerConn(nc, cfg)
	if err != nil {
		return
	}
	for r := range requests {
		_ = r.Reply(true, session.Payload())
	}
}

// everything calls all methods of c and returns their errors.
func everything(ctx context.Context, c *sshguest.Conn) map[string]error {
	errs := map[string]error{}
	_, errs["Run"] = c.Run(ctx, guest.Cmd{Args: []string{"x"}}, guest.Streams{Stdin: bytes.NewReader(make([]byte, 8<<20)), Stdout: io.Discard})
	r, _, err := c.ReadFile(ctx, "/x", 0, 100)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
		err = errors.Join(err, r.Close())
	}
	errs["ReadFile"] = err
	_, errs["WriteFile"] = c.WriteFile(ctx, "/x", bytes.NewReader(make([]byte, 8<<20)), guest.WriteOptions{})
	_, errs["ListFiles"] = c.ListFiles(ctx, "/x", guest.ListOptions{Limit: 1})
	_, _, errs["Start"] = c.Processes().Start(ctx, guest.Cmd{Args: []string{"x"}}, guest.StartOptions{Max: 1})
	_, _, errs["Read"] = c.Processes().Read(ctx, "p_1", guest.ReadRequest{Max: 1})
	_, errs["Control"] = c.Processes().Control(ctx, "p_1", guest.Input{Signal: "INT"})
	_, errs["List"] = c.Processes().List(ctx)
	_, errs["Rekey"] = c.Rekey(ctx, guest.Rekey{Hostname: "x"}, sshguest.Config{}, func() {})
	return errs
}

// answer answers every call with result.
func answer(result any) func(net.Conn) {
	return func(ch net.Conn) {
		for {
			var req wire.Request
			if wire.ReadFrame(ch, &req) != nil {
				return
			}
			text, err := json.Marshal(result)
			if err != nil {
				return
			}
			frame, err := wire.Frame(wire.Answer{ID: req.ID, Result: text})
			if err != nil {
				return
			}
			if _, err := ch.Write(frame); err != nil {
				return
			}
		}
	}
}

// say sends parts of a stream.
func say(nc net.Conn, parts ...any) {
	w := wire.NewStreamWriter(nc)
	for i := 0; i < len(parts); i += 2 {
		_ = w.Send(parts[i].(wire.Kind), parts[i+1].([]byte))
	}
}

func TestHostileGuest(t *testing.T) {
	big := make([]byte, 1000)
	lies := map[string]any{
		"process": map[string]any{"ID": "p_1", "Exit": map[string]any{"Code": 12345}},
		"output":  guest.Output{Stdout: guest.Clip{Head: big}, Both: big},
		"files":   []wire.FileInfo{{}, {}}, "total": -5,
		"processes": []any{map[string]any{"ID": string(big)}},
	}
	for name, h := range map[string]hostile{
		"closes_in_the_middle": {
			calls:  func(ch net.Conn) { _ = ch.Close() },
			stream: func(nc net.Conn) { _ = nc.Close() },
		},
		"closes_the_stream": {
			calls:  answer(lies),
			stream: func(nc net.Conn) { say(nc, wire.Begin, []byte(`{}`), wire.Data, []byte("part")); _ = nc.Close() },
		},
		"lies": {
			calls: answer(lies),
			stream: func(nc net.Conn) {
				say(nc, wire.Begin, []byte(`{"size":-1}`), wire.Data, big, wire.End, []byte(`{"exit":{"Code":-1}}`))
			},
		},
		"nonsense": {
			calls: func(nc net.Conn) { _, _ = nc.Write(bytes.Repeat([]byte("\x00\x00\x00\x04nope"), 1000)) },
			stream: func(nc net.Conn) {
				say(nc, wire.Begin, []byte(`nope`), wire.End, []byte(`[`))
				_ = nc.Close()
			},
		},
		"speaks_out_of_turn": {
			calls: answer(lies),
			stream: func(nc net.Conn) {
				for range 1000 {
					say(nc, wire.More, []byte("more"), wire.EOF, []byte{}, wire.Kind(77), big)
				}
				say(nc, wire.End, []byte(`{"exit":{"Code":-1}}`))
			},
		},
		"claims_a_length": {
			calls: func(ch net.Conn) {
				_, _ = ch.Write(binary.BigEndian.AppendUint32(nil, 1<<31))
			},
			stream: func(nc net.Conn) { _, _ = nc.Write([]byte{byte(wire.End), 0xff, 0xff, 0xff}) },
		},
		"floods": {
			calls: func(ch net.Conn) {
				for { // with answers nobody asked for
					frame, _ := wire.Frame(wire.Answer{ID: 1 << 40, Result: json.RawMessage(`"` + string(bytes.Repeat([]byte("x"), 1<<20)) + `"`)})
					if _, err := ch.Write(frame); err != nil {
						return
					}
				}
			},
			stream: func(nc net.Conn) {
				w := wire.NewStreamWriter(nc)
				_ = w.Send(wire.Begin, []byte(`{}`))
				for w.Send(wire.Data, make([]byte, wire.MaxPart)) == nil {
				}
			},
		},
		"floods_with_a_last_word": {
			stream: func(nc net.Conn) {
				_, _ = nc.Write([]byte{byte(wire.End), 0x04, 0, 0})
				for {
					if _, err := nc.Write(make([]byte, 1<<20)); err != nil {
						return
					}
				}
			},
		},
		"hangs": {stream: func(net.Conn) {}},
	} {
		t.Run(name, func(t *testing.T) {
			c := h.conn(t)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			for call, err := range everything(ctx, c) {
				if err == nil {
					t.Errorf("%s believes it", call)
				}
			}
			runtime.GC()
			var mem runtime.MemStats
			runtime.ReadMemStats(&mem)
			if mem.HeapInuse > 64<<20 {
				t.Errorf("heap has %d bytes", mem.HeapInuse)
			}
		})
	}
}

// A guest can't say that more came of a stream than came at all.
func TestRunsAreOfTheOutput(t *testing.T) {
	for name, tt := range map[string]struct {
		runs []int
		ok   bool
	}{
		"not_said": {nil, true}, "all": {[]int{0, 2, 1}, true},
		"longer": {[]int{2, 2}, false}, "shorter": {[]int{2}, false}, "negative": {[]int{4, -1}, false}, "empty": {make([]int, 100), false},
	} {
		t.Run(name, func(t *testing.T) {
			c := hostile{calls: answer(map[string]any{
				"process": map[string]any{"id": "p_1"}, "output": guest.Output{Both: []byte("abc"), Next: 3, Runs: tt.runs},
			})}.conn(t)
			if _, _, err := c.Processes().Read(t.Context(), "p_1", guest.ReadRequest{Max: 10}); (err == nil) != tt.ok {
				t.Errorf("error %v", err)
			}
		})
	}
}

// frozen is a connection whose far side stops reading and writing.
type frozen struct {
	net.Conn
	freeze <-chan struct{}
}

func (f frozen) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	select {
	case <-f.freeze:
		select {}
	default:
	}
	return n, err
}

// A guest that hangs is noticed by its silence: callers without a limit of
// their own are not left waiting.
func TestSilentGuestIsGivenUp(t *testing.T) {
	freeze := make(chan struct{})
	c := hostile{
		raw: func(nc net.Conn) net.Conn { return frozen{nc, freeze} },
		stream: func(net.Conn) {
			select {
			case <-freeze:
			default:
				close(freeze)
			}
		},
	}.conn(t)
	_, err := c.Run(t.Context(), guest.Cmd{Args: []string{"x"}}, guest.Streams{})
	if !errors.Is(err, guest.ErrUnreachable) {
		t.Errorf("error %v", err)
	}
}

// A guest that was re-keyed has to say who it has become.
func TestRekeyedGuestIsAsked(t *testing.T) {
	for want, says := range map[string]wire.RekeyResult{
		"":                {Hostname: "x", MachineID: "y"},
		`is "other" with`: {Hostname: "other", MachineID: "y"},
		`machine-id "z",`: {Hostname: "x", MachineID: "z"},
	} {
		h := hostile{calls: answer(says)}
		next, err := h.conn(t).Rekey(t.Context(), guest.Rekey{Hostname: "x", MachineID: "y"}, sshguest.Config{}, func() {})
		if want == "" && err == nil {
			check(t, next.Close())
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

// A guest with another key than the pinned one gets nothing.
func TestHostKeyIsPinned(t *testing.T) {
	m := start(t, os.Getuid())
	public, _, err := ed25519.GenerateKey(nil)
	check(t, err)
	m.host, err = ssh.NewPublicKey(public)
	check(t, err)
	_, err = m.conn(t).Run(t.Context(), guest.Cmd{Args: []string{"true"}}, guest.Streams{})
	if !errors.Is(err, guest.ErrUnreachable) || !bytes.Contains([]byte(err.Error()), []byte("host key mismatch")) {
		t.Errorf("error %v", err)
	}
}
