package pvetest

import (
	"compress/gzip"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// recorded is an entry of a transcript.
type recorded struct {
	Title   string
	Request *struct {
		Method, Path, Auth, Type string
		Form, JSON               any
		Ticket, CSRF, Large      bool
	}
	Status int
	Reason string
	Body   any
	Task   map[string]any // the final state of a task
	Argv   []string       // of a command on the node
	Exit   int
	Stdout string
	Stderr string
	Other  any
}

func readTranscript(t *testing.T, name string, replace ...string) []recorded {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".json.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	var entries []recorded
	if err := json.Unmarshal([]byte(strings.NewReplacer(replace...).Replace(string(text))), &entries); err != nil {
		t.Fatal(err)
	}
	return entries
}

// replay is a transcript on its way through the simulator.
type replay struct {
	t      *testing.T
	srv    *Server
	http   *http.Client
	url    string
	token  map[string]string // secrets by id
	upids  map[string]string // ours by the recorded one
	pids   map[string]string // of guest-exec
	pid    string            // the last of them, as recorded
	tick   [2]string         // ticket and CSRF token
	vnc    string            // ticket of the last VNC proxy
	delay  atomic.Int64      // of agents
	guests ProcessGuests
	hot    bool // don't wait for tasks between entries
}

func TestReplay(t *testing.T) {
	for name, tr := range transcripts() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReplay(t, tr)
			for i, e := range readTranscript(t, name, tr.replace...) {
				e = r.completed(e)
				if !r.hot {
					r.settle()
				}
				if tr.before[e.Title] != nil {
					tr.before[e.Title](r)
				}
				if tr.omitted(i, e) != "" || e.Request == nil && e.Task == nil && e.Argv == nil {
					continue
				}
				if !r.hot {
					r.settle()
				}
				if diff := r.play(e); diff != "" {
					t.Errorf("[%d] %s:\n%s", i, e.Title, diff)
				}
				if tr.after[e.Title] != nil {
					tr.after[e.Title](r)
				}
			}
		})
	}
}

// TestEveryTranscriptEntryIsAccountedFor fails for an entry that is neither
// replayed nor listed with its reason, and for a listing of what is not there.
func TestEveryTranscriptEntryIsAccountedFor(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json.gz")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	all := transcripts()
	for _, f := range files {
		name, _, _ := strings.Cut(filepath.Base(f), ".")
		tr, entries := all[name], readTranscript(t, name)
		if tr == nil {
			if leftOut[name] == "" {
				t.Errorf("transcript %s is neither replayed nor listed", name)
			}
			continue
		}
		titles := map[string]bool{}
		for i, e := range entries {
			titles[e.Title] = true
			e = (&replay{}).completed(e)
			if e.Request == nil && e.Task == nil && e.Argv == nil && tr.omitted(i, e) == "" {
				t.Errorf("%s [%d] %q has nothing to replay and is not listed", name, i, e.Title)
			}
		}
		for title := range tr.omit {
			if !titles[title] {
				t.Errorf("%s lists %q, which is not in it", name, title)
			}
		}
		for i := range tr.omitAt {
			if i >= len(entries) {
				t.Errorf("%s lists the entry %d, which is not in it", name, i)
			}
		}
	}
}

func newReplay(t *testing.T, tr *transcript) *replay {
	t.Helper()
	r := &replay{t: t, srv: &Server{Scale: 0.05, Patience: time.Minute, Staleness: tr.stale(), ArgumentsLast: func() bool { return true }}, token: map[string]string{}, upids: map[string]string{}, pids: map[string]string{}}
	if tr.version != "" {
		r.srv.Version = tr.version
	}
	r.srv.TaskTime = map[string]time.Duration{}
	r.srv.AgentDelay = func(int) time.Duration { return time.Duration(r.delay.Load()) }
	if tr.web != nil {
		r.srv.dialWeb = tr.web(t)
	}
	if tr.guests {
		r.guests.Dir = t.TempDir()
		r.srv.NewGuest = r.guests.New
	}
	t.Cleanup(r.srv.Close)
	r.srv.Edit(func(c *Cluster) {
		r.token["root@pam!mcp"] = c.AddToken("root@pam!mcp", false)
		tr.prepare(r, c)
	})
	r.url = r.srv.Listen("pve")
	r.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // our own server
	t.Cleanup(r.http.CloseIdleConnections)
	if tr.begin != nil {
		tr.begin(r)
	}
	return r
}

// play repeats an entry and says how the answer differs.
func (r *replay) play(e recorded) string {
	switch {
	case e.Task != nil:
		return r.taskDiff(e)
	case e.Argv != nil:
		return r.commandDiff(e)
	}
	if upid, ok := r.ended(e); ok {
		r.finished(upid)
	}
	status, reason, body, err := r.send(e)
	for err == nil && strings.Contains(e.Request.Path, "exec-status") && strings.Contains(fmt.Sprint(body), "exited:0") && !strings.Contains(fmt.Sprint(e.Body), "exited:0") {
		status, reason, body, err = r.send(e)
	}
	if err != nil {
		return err.Error()
	}
	r.learn(e.Body, body)
	var diffs []string
	if raw, ok := strings.CutPrefix(e.Reason, fmt.Sprintf("HTTP/1.1 %d ", e.Status)); ok {
		e.Reason, e.Body = raw, body // the body of what was to be a WebSocket was not recorded
	}
	if status != e.Status || reason != e.Reason {
		diffs = append(diffs, fmt.Sprintf("-%d %s\n+%d %s", e.Status, e.Reason, status, reason))
	}
	if !cutOff(e.Body) {
		diffs = append(diffs, compare("", e.Body, body)...)
		diffs = append(diffs, digestDiff(e.Request.Path, e.Body, body)...)
	}
	return strings.Join(diffs, "\n")
}

// cutOff says that only the beginning of an answer was recorded.
func cutOff(body any) bool {
	text, _ := body.(string)
	return strings.HasPrefix(text, "(large") || strings.HasPrefix(text, `{"data": {"`)
}

// ended is the task whose end the recorded answer shows.
func (r *replay) ended(e recorded) (string, bool) {
	body, _ := e.Body.(map[string]any)
	data, _ := body["data"].(map[string]any)
	upid, ok := r.upids[fmt.Sprint(data["upid"])]
	return upid, ok && data["status"] == "stopped"
}

// learn notes which of our ids stands for which recorded one.
func (r *replay) learn(theirs, mine any) {
	a, _ := theirs.(map[string]any)
	b, _ := mine.(map[string]any)
	switch x := a["data"].(type) {
	case string:
		if y, ok := b["data"].(string); ok && strings.HasPrefix(x, "UPID:") {
			r.upids[x] = y
		}
	case map[string]any:
		y, _ := b["data"].(map[string]any)
		if x["pid"] != nil && len(x) == 1 && y["pid"] != nil {
			r.pid = fmt.Sprint(x["pid"])
			r.pids[r.pid] = fmt.Sprint(y["pid"])
		}
		if id, ok := x["full-tokenid"].(string); ok && y["value"] != nil {
			r.token[id] = y["value"].(string)
		}
		if x["cert"] != nil && y["ticket"] != nil {
			r.vnc = y["ticket"].(string)
		} else if x["ticket"] != nil && y["ticket"] != nil {
			r.tick = [2]string{y["ticket"].(string), y["CSRFPreventionToken"].(string)}
		}
	}
}

// taskDiff waits for the task and compares how it ended.
func (r *replay) taskDiff(e recorded) string {
	upid, ok := r.upids[fmt.Sprint(e.Task["upid"])]
	if !ok {
		return "the task is unknown"
	}
	exit := r.finished(upid)
	if want := fmt.Sprint(e.Task["exitstatus"]); masked(exit) != masked(want) {
		return fmt.Sprintf("-%s\n+%s", want, exit)
	}
	return ""
}

func (r *replay) finished(upid string) string {
	pass("qmclone begins")(r)
	pass("qmclone")(r)
	r.srv.mu.Lock()
	task := r.srv.c.byUPID[upid]
	r.srv.mu.Unlock()
	<-task.done
	return task.exit
}

// settle waits for all tasks but those that are to run on, and are at it.
func (r *replay) settle() {
	eventually(r.t, r.srv, "the tasks have ended", func(c *Cluster) bool {
		return !slices.ContainsFunc(c.tasks, func(t *Task) bool { return t.running() && !t.endless })
	})
}

// eventually waits for a state that the cluster reaches by itself.
func eventually(t *testing.T, srv *Server, what string, is func(c *Cluster) bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		done := false
		srv.Edit(func(c *Cluster) { done = is(c) })
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after a minute it is still not so that %s", what)
		}
	}
}

// cloning sets how long clones take from now on; negative is for ever.
func cloning(d time.Duration) func(*replay) {
	return func(r *replay) { r.srv.Edit(func(*Cluster) { r.srv.TaskTime["qmclone"] = d }) }
}

// hold keeps tasks before the steps named until release, or until the end of
// one is asked for.
func hold(steps ...string) func(*replay) {
	return func(r *replay) {
		r.hot = true
		r.srv.Edit(func(*Cluster) {
			r.srv.gates = map[string]chan struct{}{}
			for _, s := range steps {
				r.srv.gates[s] = make(chan struct{})
			}
		})
	}
}

func release(r *replay) { pass("")(r) }

// pass opens the gate before a step; "" opens all.
func pass(step string) func(*replay) {
	return func(r *replay) {
		r.srv.Edit(func(*Cluster) {
			for s, gate := range r.srv.gates {
				if step == "" || s == step {
					close(gate)
					delete(r.srv.gates, s)
				}
			}
		})
	}
}
