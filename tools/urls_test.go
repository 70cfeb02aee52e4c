package tools_test

import (
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
	check(t, e.files.Download(ctx, down, func(size int64, _ time.Time, r io.ReadSeeker) {
		if size != 10 {
			t.Errorf("%d bytes", size)
		}
		check(t, iotest.TestReader(r, []byte("0123456789")))
	}))

	up := e.ticket("upload_url", args{"path": "sub/g"})
	if n, err := e.files.Upload(ctx, up, strings.NewReader("whole")); n != 5 || err != nil || e.file("sub/g") != "whole" {
		t.Errorf("%d, %v, %q", n, err, e.file("sub/g"))
	}
	broken := errors.New("connection lost")
	if _, err := e.files.Upload(ctx, up, io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken))); !errors.Is(err, broken) || e.file("sub/g") != "whole" {
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

func TestUploadInParts(t *testing.T) {
	e := newEnv(t)
	ctx := as(t.Context(), "local:1")
	up := e.ticket("upload_url", args{"path": "big"})
	for i, tt := range []struct {
		from int64
		body string
		have int64
		err  error
	}{
		{-1, "", 0, nil},
		{3, "x", 0, tools.ErrGap},
		{0, "0123", 4, nil},
		{0, "0123", 4, tools.ErrGap},
	} {
		have, err := e.files.Append(ctx, up, tools.Part{From: tt.from, Total: 10}, strings.NewReader(tt.body))
		if have != tt.have || !errors.Is(err, tt.err) {
			t.Errorf("part %d: %d, %v; want %d, %v", i, have, err, tt.have, tt.err)
		}
	}
	// Of a part that broke off, some may be there; the next one continues it.
	broken := errors.New("connection lost")
	if _, err := e.files.Append(ctx, up, tools.Part{From: 4, Total: 10}, io.MultiReader(strings.NewReader("45"), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("broken part: %v", err)
	}
	have, err := e.files.Append(ctx, up, tools.Part{From: -1, Total: 10}, nil)
	if err != nil || have < 4 || have > 6 {
		t.Fatalf("after it: %d, %v", have, err)
	}
	if _, err := os.Stat(e.home + "/big"); err == nil {
		t.Error("the file is there before it is whole")
	}
	if have, err = e.files.Append(ctx, up, tools.Part{From: have, Total: 10}, strings.NewReader("0123456789"[have:])); have != 10 || err != nil {
		t.Errorf("last part: %d, %v", have, err)
	}
	if got := e.file("big"); got != "0123456789" {
		t.Errorf("uploaded %q", got)
	}
	e.wantNoStage(e.home)
}
