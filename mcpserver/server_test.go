package mcpserver_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/tools"
)

func TestClientOfAnother(t *testing.T) {
	f := start(t)
	c, err := new(net.Dialer).DialContext(t.Context(), "unix", f.path)
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	if _, err := in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	client := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	session, err := client.Connect(t.Context(), &mcp.IOTransport{Reader: readCloser{in, c}, Writer: c}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if got := session.InitializeResult().Instructions; got != "how to use it" {
		t.Errorf("instructions %q", got)
	}
	list, err := session.ListTools(t.Context(), nil)
	if err != nil || len(list.Tools) != 7 {
		t.Fatalf("tools %v, error %v", list, err)
	}
	res, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "whoami"})
	if err != nil {
		t.Fatal(err)
	}
	if text := res.Content[0].(*mcp.TextContent).Text; !strings.HasPrefix(text, "local:") {
		t.Errorf("principal %q", text)
	}
	if res.Meta[tools.MetaKey] == nil {
		t.Errorf("no %s in %v", tools.MetaKey, res.Meta)
	}
	if n := f.Clients(); n != 1 {
		t.Errorf("%d clients", n)
	}
}

type readCloser struct {
	io.Reader
	io.Closer
}

func TestBothEras(t *testing.T) {
	for _, version := range []string{"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"} {
		t.Run(version, func(t *testing.T) {
			r := start(t).dial(t)
			r.send(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"` + version + `","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`)
			r.want("1", `"protocolVersion":"`+version+`"`)
			r.send(`{"jsonrpc":"2.0","method":"notifications/initialized"}`, callLine("2", "whoami", "{}"))
			r.want("2", "local:")
		})
	}
	t.Run("2026-07-28", func(t *testing.T) {
		r := start(t).dial(t)
		r.send(`{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`)
		r.want("1", `"resultType":"complete"`)
		r.send(modernCall("2", "whoami", "{}"))
		r.want("2", `"resultType":"complete"`)
		r.send(`{"jsonrpc":"2.0","id":3,"method":"subscriptions/listen","params":{"notifications":{"promptsListChanged":true},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`)
		if a := r.answer(); a.Method != "notifications/subscriptions/acknowledged" {
			t.Fatalf("first message %+v", a)
		}
		r.want("3", "subscriptionId")
	})
}

func TestBadMessages(t *testing.T) {
	for _, tt := range []struct {
		name, line, id string
		code           int
		text           string
	}{
		{"not-json", `{"jsonrpc":`, "null", -32700, "not valid JSON"},
		{"invalid-utf8", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}", "null", -32700, "UTF-8"},
		{"batch", `[{"jsonrpc":"2.0","id":1,"method":"ping"}]`, "null", -32600, "batches"},
		{"number", `5`, "null", -32600, "not a JSON-RPC message"},
		{"null-id", `{"jsonrpc":"2.0","id":{},"method":"ping"}`, "null", -32600, "id must be"},
		{"params-array", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":[1]}`, "7", -32600, "not a JSON-RPC message"},
		{"name-not-a-text", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":5}}`, "7", -32600, "message: params.name can't be a JSON number"},
		{"level-not-a-text", `{"jsonrpc":"2.0","id":7,"method":"logging/setLevel","params":{"level":5}}`, "7", -32600, "message: params.level can't be a JSON number"},
		{"wrong-version", `{"jsonrpc":"1.0","id":7,"method":"ping"}`, "7", -32600, "version"},
		{"unknown-method", `{"jsonrpc":"2.0","id":7,"method":"nope"}`, "7", -32601, "not found"},
		{"unknown-tool", callLine("7", "nope", "{}"), "7", -32602, "not found"},
		{"too-long-id-first", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"x":"` + strings.Repeat("x", 33<<20) + `"}}`, "7", -32600, "more than 32 MiB"},
		{"too-long-id-last", `{"method":"tools/call","params":{"x":"` + strings.Repeat("x", 33<<20) + `"},"jsonrpc":"2.0","id":"a"}`, `"a"`, -32600, "more than 32 MiB"},
		{"too-long-id-unseen", strings.Repeat("x", 33<<20), "null", -32600, "more than 32 MiB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t).dial(t)
			r.send(tt.line)
			r.wantError(tt.id, tt.code, tt.text)
			r.ping() // the connection has survived
		})
	}
}

func TestIDsComeBackAsTheyWere(t *testing.T) {
	r := start(t).dial(t)
	for _, id := range []string{"9007199254740993", `"9007199254740993"`, `"ä\u0022"`, "0", "-1"} {
		r.send(callLine(id, "destroy", "{}"))
		r.want(id, "destroyed")
	}
}

func TestCancelledCallIsNotAnswered(t *testing.T) {
	for name, line := range map[string]func(id, tool, args string) string{"legacy": callLine, "modern": modernCall} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			r := f.dial(t)
			r.send(line(`"a\u0062"`, "block", "{}"))
			<-f.started
			r.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"ab"}}`)
			<-f.ended
			close(f.release)
			r.send(line("2", "block", "{}"))
			r.want("2", "released") // and nothing before it
			r.ping()
		})
	}
}

func TestCancelledCallSendsNoNotification(t *testing.T) {
	f := start(t)
	r := f.dial(t)
	r.send(callLine("1", "late", "{}"))
	<-f.started
	r.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`)
	if err := <-f.ended; err != "<nil>" {
		t.Fatalf("notification was not accepted: %s", err)
	}
	if err := r.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(r.in); err != nil || len(rest) > 0 {
		t.Errorf("sent after the cancellation: %q, error %v", rest, err)
	}
}

func TestOneClientDoesNotCancelAnothers(t *testing.T) {
	f := start(t)
	a, b := f.dial(t), f.dial(t)
	a.send(callLine("1", "block", "{}"))
	<-f.started
	b.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`)
	b.ping()
	close(f.release)
	a.want("1", "released")
}

func TestIDInUseIsRefused(t *testing.T) {
	f := start(t)
	r := f.dial(t)
	r.send(callLine("1", "block", "{}"))
	<-f.started
	r.send(callLine("1", "destroy", "{}"))
	r.wantError("null", -32600, "id 1 is being served")
	close(f.release)
	r.want("1", "released")
	r.send(callLine("1", "destroy", "{}"))
	r.want("1", "destroyed")
}

// What must get through has room of its own: a destroy, a cancellation.
func TestFullConnectionStillDestroysAndCancels(t *testing.T) {
	f := start(t)
	r := f.dial(t)
	for i := range 100 {
		r.send(callLine(fmt.Sprint(i), "block", "{}"))
		<-f.started
	}
	r.send(callLine("100", "block", "{}"))
	r.wantError("100", -32000, "100 calls running")
	r.send(callLine(`"d"`, "destroy", "{}"))
	r.want(`"d"`, "destroyed")
	r.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":5}}`)
	<-f.ended
	close(f.release)
	for range 99 {
		if a := r.answer(); string(a.ID) == "5" {
			t.Error("answer to the cancelled call")
		}
	}
	r.ping()
}

// A pipe that is closed right after the requests gets all the answers.
func TestHalfClosedClientGetsItsAnswers(t *testing.T) {
	f := start(t)
	r := f.dial(t)
	r.send(callLine("1", "block", "{}"))
	r.send(strings.TrimSuffix(callLine("2", "block", "{}"), "\n"))
	if err := r.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	<-f.started
	<-f.started
	close(f.release)
	r.answer()
	r.answer()
	if _, err := r.in.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last answer: %v, want EOF", err)
	}
}

func TestLostClientCancelsItsCalls(t *testing.T) {
	for name, leave := range map[string]func(*raw){
		"at-once":          func(r *raw) { r.Close() },
		"after-half-close": func(r *raw) { _ = r.CloseWrite(); r.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			r := f.dial(t)
			r.send(callLine("1", "block", "{}"))
			<-f.started
			leave(r)
			<-f.ended
		})
	}
}

func TestPanicIsSurvivedAndHidden(t *testing.T) {
	f := start(t)
	r := f.dial(t)
	r.send(callLine("1", "panics", "{}"))
	a := r.answer()
	if text := string(a.Result); !strings.Contains(text, `"isError":true`) || !strings.Contains(text, "internal error (ref ") || strings.Contains(text, "secret") {
		t.Errorf("answer %s", text)
	}
	r.ping()
	if log := f.log.String(); !strings.Contains(log, "secret detail") || !strings.Contains(log, "fixture_test.go") {
		t.Errorf("log has no panic with its stack:\n%s", log)
	}
}

// A client that reads nothing is disconnected, and others don't notice.
func TestSlowReaderIsDisconnected(t *testing.T) {
	f := start(t, func(s *mcpserver.Server) { s.WriteTimeout = 50 * time.Millisecond })
	slow, other := f.dial(t), f.dial(t)
	slow.send(callLine("1", "block", "{}"))
	<-f.started
	slow.send(callLine("2", "big", "{}"))
	<-f.ended // the disconnection cancels what it had running
	other.ping()
}

func TestProgressComesBeforeTheAnswer(t *testing.T) {
	f := start(t)
	r := f.dial(t)
	r.send(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"block","arguments":{},"_meta":{"progressToken":"tok"}}}`)
	a := r.answer()
	if a.Method != "notifications/progress" || !strings.Contains(string(a.Params), `"progressToken":"tok"`) || !strings.Contains(string(a.Params), "blocking") {
		t.Fatalf("first message %+v %s", a, a.Params)
	}
	close(f.release)
	r.want("1", "released")
}

func TestLogHasNoArguments(t *testing.T) {
	f := start(t)
	r := f.dial(t)
	r.send(callLine("1", "destroy", `{"sandbox_id":"x","command":"hunter2"}`))
	r.want("1", "destroyed")
	if log := f.log.String(); !strings.Contains(log, "tool=destroy") || !strings.Contains(log, "principal=local:") || strings.Contains(log, "hunter2") {
		t.Errorf("log:\n%s", log)
	}
}

// When the server ends, calls get the time to end, and new ones are refused. Who
// has nothing running, or does nothing but listen, is let go at once.
func TestEndDrainsCallsOfASocket(t *testing.T) {
	f := start(t, offering, func(s *mcpserver.Server) { s.Grace = soon })
	idle, busy := f.dial(t), f.dial(t)
	idle.send(`{"jsonrpc":"2.0","id":7,"method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["sandbox://sandboxes"]},` + modernMeta + `}}`)
	if got := idle.line(); !strings.Contains(got, "acknowledged") {
		t.Fatal(got)
	}
	busy.send(callLine("1", "block", "{}"))
	<-f.started
	f.stop()
	if rest, err := io.ReadAll(idle.in); err != nil || !strings.Contains(string(rest), `"id":7`) {
		t.Errorf("who listens is told %s, error %v", rest, err)
	}
	for ended := false; !ended; { // each connection learns of it by itself
		busy.send(callLine("2", "whoami", "{}"))
		got := busy.line()
		if ended = strings.Contains(got, `"code":-32000`) && strings.Contains(got, "the server is ending; sandboxes go on, try again in 5 s"); !ended && !strings.Contains(got, "local:") {
			t.Fatal(got)
		}
	}
	for { // the listener, too
		c, err := new(net.Dialer).DialContext(t.Context(), "unix", f.path)
		if err != nil {
			break
		}
		c.Close()
	}
	close(f.release)
	busy.want("1", "released")
	if rest, err := io.ReadAll(busy.in); err != nil || len(rest) > 0 {
		t.Errorf("after the answer: %s, error %v", rest, err)
	}
}

// Calls that take too long are cancelled at the end.
func TestEndOfServerEndsConnections(t *testing.T) {
	f := start(t)
	r := f.dial(t)
	r.send(callLine("1", "block", "{}"))
	<-f.started
	f.stop()
	<-f.ended
	err := <-f.served
	f.served <- err // for the cleanup
	if n := f.Clients(); n != 0 || err != nil {
		t.Errorf("%d clients, error %v", n, err)
	}
}
