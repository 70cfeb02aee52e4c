package tools_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// ticket calls a tool that makes a URL, and returns the ticket that is in it.
func (e *env) ticket(tool string, a args) auth.Ticket {
	e.t.Helper()
	var got auth.Ticket
	a["sandbox_id"] = e.sandbox
	raw, err := json.Marshal(a)
	check(e.t, err)
	ctx := tools.WithLinker(as(e.t.Context(), "local:1"), func(t auth.Ticket) (string, error) {
		got = t
		return "https://lab/files/x", nil
	})
	res := e.tools[tool].Call(ctx, raw)
	wantOutcome(e.t, res, false, "https://lab/files/x")
	got.ID = "ABCDEFGHIJKLMNOP"
	return got
}

func TestURLsAreOfferedOnlyOverHTTP(t *testing.T) {
	e := newEnv(t)
	for _, name := range []string{"upload_url", "download_url"} {
		if e.tools[name].Offered(t.Context()) {
			t.Errorf("%s is offered to everybody", name)
		}
	}
}

func TestTicketsSayWhatIsAllowed(t *testing.T) {
	e := newEnv(t)
	e.write("f", "12345")
	before := time.Now()
	got := e.ticket("download_url", args{"path": "f", "ttl_seconds": 30}) // less than a sandbox may have
	if d := got.Expires.Sub(before); d < 28*time.Second || d > 10*time.Minute {
		t.Errorf("expires after %v", d)
	}
	got.Expires = time.Time{}
	want := auth.Ticket{ID: got.ID, Principal: "local:1", Sandbox: e.sandbox, Path: e.home + "/f"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ticket (-want +got):\n%s", diff)
	}
	if up := e.ticket("upload_url", args{"path": "new"}); !up.Write || up.Path != e.home+"/new" {
		t.Errorf("ticket %+v", up)
	}
	for _, refused := range []struct {
		tool string
		args args
	}{{"download_url", args{"path": "none"}}, {"upload_url", args{"path": "."}}, {"download_url", args{"path": "f", "ttl_seconds": 3601}}} {
		refused.args["sandbox_id"] = e.sandbox
		raw, err := json.Marshal(refused.args)
		check(t, err)
		ctx := tools.WithLinker(as(t.Context(), "local:1"), func(auth.Ticket) (string, error) { t.Errorf("a ticket for %v", refused); return "", nil })
		if res := e.tools[refused.tool].Call(ctx, raw); !res.IsError {
			t.Errorf("%v: %s", refused, textOf(res))
		}
	}
}

func TestFilesByTicket(t *testing.T) {
	e := newEnv(t)
	ctx := as(t.Context(), "local:1")
	e.write("f", "0123456789")
	down := e.ticket("download_url", args{"path": "f"})
	check(t, e.files.Download(ctx, down, func(_ context.Context, size int64, _ time.Time, r io.ReadSeeker) error {
		if size != 10 {
			t.Errorf("%d bytes", size)
		}
		return iotest.TestReader(r, []byte("0123456789"))
	}))

	up := e.ticket("upload_url", args{"path": "sub/g"})
	if n, err := e.files.Upload(ctx, up, sends("whole")); n != 5 || err != nil || e.file("sub/g") != "whole" {
		t.Errorf("%d, %v, %q", n, err, e.file("sub/g"))
	}
	broken := errors.New("connection lost")
	if _, err := e.files.Upload(ctx, up, breaksOff("half", broken)); !errors.Is(err, broken) || e.file("sub/g") != "whole" {
		t.Errorf("%v, %q", err, e.file("sub/g"))
	}

	// Another principal's sandbox is not found, whatever a ticket says.
	if err := e.files.Download(as(t.Context(), "token:other"), down, nil); !isKind(err, sessions.NotFound) {
		t.Errorf("foreign: %v", err)
	}
	e.call("destroy", args{})
	if err := e.files.Download(ctx, down, nil); !isKind(err, sessions.NotFound) {
		t.Errorf("destroyed: %v", err)
	}
}

func isKind(err error, kind sessions.Kind) bool {
	got, text := tools.Explain(err)
	return err != nil && got == kind && text != ""
}

// sends is a body.
func sends(text string) tools.Body {
	return func(context.Context) io.Reader { return strings.NewReader(text) }
}

// breaksOff is a body whose sender is gone after some of it.
func breaksOff(text string, err error) tools.Body {
	return func(context.Context) io.Reader {
		return io.MultiReader(strings.NewReader(text), iotest.ErrReader(err))
	}
}

func TestUploadInParts(t *testing.T) {
	e := newEnv(t)
	ctx := as(t.Context(), "local:1")
	up := e.ticket("upload_url", args{"path": "big"})
	const content, total = "0123456789", 10
	part := func(from, end int64) tools.Part { return tools.Part{From: from, Length: end - from, Total: total} }
	ask := tools.Part{From: -1, Total: total}
	for i, tt := range []struct {
		part tools.Part
		body string
		have int64
		err  error
	}{
		{ask, "", 0, nil},
		{part(3, 4), "x", 0, tools.ErrGap},
		{part(0, 4), "0123", 4, nil},
		{part(0, 4), "0123", 4, tools.ErrGap},
	} {
		have, done, err := e.files.Append(ctx, up, tt.part, sends(tt.body))
		if have != tt.have || done || !errors.Is(err, tt.err) {
			t.Errorf("part %d: %d, %v, %v; want %d, %v", i, have, done, err, tt.have, tt.err)
		}
	}
	// Of a part that broke off, some may be there; the next one continues it.
	broken := errors.New("connection lost")
	if _, _, err := e.files.Append(ctx, up, part(4, 10), breaksOff("45", broken)); !errors.Is(err, broken) {
		t.Errorf("broken part: %v", err)
	}
	have, _, err := e.files.Append(ctx, up, ask, nil)
	if err != nil || have != 6 { // all that came, as nothing more may come of it
		t.Fatalf("after it: %d, %v", have, err)
	}
	if _, err := os.Stat(e.home + "/big"); err == nil {
		t.Error("the file is there before it is whole")
	}
	// It is one file all the time.
	if _, _, err = e.files.Append(ctx, up, tools.Part{From: have, Length: 1, Total: 11}, sends("x")); !isKind(err, sessions.Conflict) {
		t.Errorf("part of another file: %v", err)
	}
	last := part(have, total)
	// Who did not hear that it is done asks, or sends the last part again.
	for _, p := range []tools.Part{last, ask, last} {
		have, done, err := e.files.Append(ctx, up, p, sends(content[max(0, p.From):]))
		if have != total || !done || err != nil {
			t.Errorf("last part %+v: %d, %v, %v", p, have, done, err)
		}
	}
	if got := e.file("big"); got != content {
		t.Errorf("uploaded %q", got)
	}
	for _, p := range []tools.Part{part(0, 4), last, {From: -1, Total: 11}} {
		if have, done, err := e.files.Append(ctx, up, p, sends("another"[:max(0, p.Length)])); done || !isKind(err, sessions.Conflict) {
			t.Errorf("%+v after the end: %d, %v, %v", p, have, done, err)
		}
	}
	e.wantNoStage(e.home)
}

// Of those who send parts of the same file at once, one goes on at a time, and
// the file is whole.
func TestTwoSendTheSameFile(t *testing.T) {
	e := newEnv(t)
	ctx := as(t.Context(), "local:1")
	up := e.ticket("upload_url", args{"path": "big"})
	const size, total = 1 << 10, 32 << 10
	content := strings.Repeat("0123456789abcdef", total/16)
	send := func() error {
		for {
			have, done, err := e.files.Append(ctx, up, tools.Part{From: -1, Total: total}, nil)
			if done || err != nil {
				return err
			}
			p := tools.Part{From: have, Length: size, Total: total}
			_, _, err = e.files.Append(ctx, up, p, sends(content[have:have+size]))
			if err != nil && !errors.Is(err, tools.ErrGap) && !isKind(err, sessions.Conflict) { // else the other was faster
				return err
			}
		}
	}
	other := make(chan error)
	go func() { other <- send() }()
	if err := errors.Join(send(), <-other); err != nil {
		t.Error(err)
	}
	if e.file("big") != content {
		t.Error("what is there is not what was sent")
	}
	e.wantNoStage(e.home)
}

// A file that is sent as a whole overtakes what was sent of it in parts.
func TestUploadAsAWholeAfterParts(t *testing.T) {
	e := newEnv(t)
	ctx := as(t.Context(), "local:1")
	up := e.ticket("upload_url", args{"path": "f"})
	if _, _, err := e.files.Append(ctx, up, tools.Part{Length: 2, Total: 4}, sends("01")); err != nil {
		t.Fatal(err)
	}
	if n, err := e.files.Upload(ctx, up, sends("")); n != 0 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if have, done, err := e.files.Append(ctx, up, tools.Part{From: -1}, nil); have != 0 || !done || err != nil {
		t.Errorf("asked then: %d, %v, %v", have, done, err)
	}
	if _, _, err := e.files.Append(ctx, up, tools.Part{From: -1, Total: 4}, nil); !isKind(err, sessions.Conflict) {
		t.Errorf("asked of another: %v", err)
	}
	if got := e.file("f"); got != "" {
		t.Errorf("uploaded %q", got)
	}
	e.wantNoStage(e.home)
}

// What a token was asked for ends with it.
func TestTicketEndsWithTheToken(t *testing.T) {
	e := newEnv(t)
	over := time.Now().Add(30 * time.Second)
	for name, expires := range map[string]time.Time{"ends": over, "ends later": over.Add(time.Hour), "never ends": {}} {
		var got auth.Ticket
		ctx := sessions.WithPrincipal(t.Context(), sessions.Principal{Name: "local:1", Scopes: []sessions.Scope{sessions.ScopeWrite}, Expires: expires})
		ctx = tools.WithLinker(ctx, func(t auth.Ticket) (string, error) { got = t; return "u", nil })
		before := time.Now()
		raw, err := json.Marshal(args{"sandbox_id": e.sandbox, "path": "f", "ttl_seconds": 60})
		check(t, err)
		wantOutcome(t, e.tools["upload_url"].Call(ctx, raw), false, "PUT u")
		if got.Expires.After(over) != (name != "ends") || got.Expires.Before(before.Add(28*time.Second)) {
			t.Errorf("%s: the ticket expires %v after it was asked for", name, got.Expires.Sub(before))
		}
	}
}
