package histories

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// fakeGuest is the inside of a machine in fake time: a guest agent that, instead
// of running the shell scripts of the channel, answers as they do. A command
// under Run prints its last word. One that was started prints a line a second, for
// ever, so that what it has printed when is known.
type fakeGuest struct {
	host net.Conn
	done chan struct{}
	end  func()

	identity string             // whose it is; see agentconn.Config.Identity
	scripts  map[int]script     // that run, or ended and were not asked for yet
	started  map[string]started // processes that go on, by id and by key
	printed  map[string]string  // what commands under Run have printed, by key
	pid      int
	armed    int    // 1: it has a dead man's switch
	switchID string // as of agentconn.Switch
	dead     *time.Timer
	told     func(after time.Duration) // is told for when its switch is armed
	fired    func() (yes bool)         // is told that it powers itself off
}

// script is one run of a script.
type script struct {
	due  time.Time // when it ends
	code int
	out  func(now time.Time) string
	err  string
}

type started struct {
	id    string
	since time.Time
}

// never is a due time that is not reached.
var never = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// line is what a started process prints at the end of its second n, from 0 on.
func line(n int64) string { return fmt.Sprintf("line %07d\n", n) }

const lineLen = 13

func (l *lab) newGuest(spec pvetest.GuestSpec) (pvetest.Guest, error) {
	host, inside := net.Pipe()
	g := &fakeGuest{host: host,
		told: func(after time.Duration) { l.armed(spec.VMID, after) }, fired: func() bool { return l.fired(spec.VMID) },
		done: make(chan struct{}), scripts: map[int]script{}, started: map[string]started{}, printed: map[string]string{}, pid: 100}
	g.end = sync.OnceFunc(func() { _ = host.Close(); _ = inside.Close(); close(g.done) })
	g.dead = time.AfterFunc(time.Until(never), g.powerOff)
	go g.serve(inside)
	return g, nil
}

func (g *fakeGuest) Agent(context.Context) (net.Conn, error) { return g.host, nil }
func (g *fakeGuest) Powerdown()                              { g.end() }
func (g *fakeGuest) Kill()                                   { g.end() }
func (g *fakeGuest) Done() <-chan struct{}                   { return g.done }

// arm is arm.sh: armed with the same again, it goes on as it was.
func (g *fakeGuest) arm(id string, seconds int64) {
	if g.armed = 1; id != g.switchID {
		g.switchID = id
		g.dead.Reset(time.Duration(seconds) * time.Second)
		g.told(time.Duration(seconds) * time.Second)
	}
}

// powerOff is what the switch does when nobody has armed it anew.
func (g *fakeGuest) powerOff() {
	select {
	case <-g.done:
	default:
		if g.fired() {
			g.end()
		}
	}
}

// request is what the agent is asked.
type request struct {
	Execute   string
	Arguments struct {
		ID  int64
		Arg []string
		PID int
	}
}

// serve answers one request after the other, until the machine ends.
func (g *fakeGuest) serve(conn net.Conn) {
	in, out := json.NewDecoder(conn), json.NewEncoder(conn)
	for {
		var r request
		if in.Decode(&r) != nil {
			return
		}
		reply, err := g.answer(r)
		full := map[string]any{"return": reply}
		if err != "" {
			full = map[string]any{"error": map[string]any{"class": "GenericError", "desc": err}}
		}
		if out.Encode(full) != nil {
			return
		}
	}
}

func (g *fakeGuest) answer(r request) (reply any, err string) {
	switch r.Execute {
	case "guest-sync":
		return r.Arguments.ID, ""
	case "guest-ping":
		return map[string]any{}, ""
	case "guest-exec":
		g.pid++
		g.scripts[g.pid] = g.run(r.Arguments.Arg)
		return map[string]any{"pid": g.pid}, ""
	case "guest-exec-status":
		return g.status(r.Arguments.PID)
	}
	return nil, "The command " + r.Execute + " has not been found"
}

// status tells the end of a script, once.
func (g *fakeGuest) status(pid int) (reply any, err string) {
	s, ok := g.scripts[pid]
	switch {
	case !ok:
		return nil, "Invalid parameter 'pid'"
	case time.Now().Before(s.due):
		return map[string]any{"exited": false}, ""
	}
	delete(g.scripts, pid)
	told := map[string]any{"exited": true, "exitcode": s.code}
	if s.out != nil {
		told["out-data"] = base64.StdEncoding.EncodeToString([]byte(s.out(time.Now())))
	}
	if s.err != "" {
		told["err-data"] = base64.StdEncoding.EncodeToString([]byte(s.err))
	}
	return told, ""
}

// run is sh -c TEXT agentlab-NAME IDENTITY ADOPT LITTER ARGUMENTS...
func (g *fakeGuest) run(argv []string) script {
	name, identity, adopt, args := strings.TrimPrefix(argv[2], "agentlab-"), argv[3], argv[4], argv[6:]
	if identity != g.identity {
		if adopt != "any" && (adopt != "bare" || g.identity != "") {
			return script{code: 77, err: "this guest is another\n"}
		}
		g.identity = identity
	}
	said := func(text string) script { return script{out: func(time.Time) string { return text }} }
	switch name {
	case "hello":
		return said("\n")
	case "supervise":
		return g.supervise(args[0], args[1], args[len(args)-1])
	case "fetch":
		return g.fetch(args[0], number(args[1]), number(args[2]), number(args[3]))
	case "pull":
		return said(g.pull(args[0], number(args[2])))
	case "rekey": // whose first argument is litter, too
		g.identity, g.started, g.printed = args[0], map[string]started{}, map[string]string{}
		if g.armed == 1 {
			g.arm(args[7], number(args[8]))
		}
		return said(fmt.Sprintf("machine=%s name=%s switched=%d\n", args[2], args[1], g.armed))
	case "arm":
		g.arm(args[0], number(args[1]))
		return script{}
	case "kill", "beat":
		return script{}
	}
	return script{code: 1, err: "the fake guest has no script " + name + "\n"}
}

// supervise begins a command, unless it was begun before.
func (g *fakeGuest) supervise(key, mode, name string) script {
	if mode == "run" {
		word, _ := base64.RawURLEncoding.DecodeString(name)
		g.printed[key] = string(word)
		return script{out: func(time.Time) string {
			return fmt.Sprintf("ended=1 id=%s start=ok code=0 sig=0 whole=1 outn=%d errn=0 why=\n%s", key, len(word), word)
		}}
	}
	if _, again := g.started[key]; !again {
		p := started{"p_" + strconv.Itoa(len(g.started)/2+1), time.Now()}
		g.started[key], g.started[p.id] = p, p
	}
	return script{due: never}
}

// pull is asked for what a command printed where its supervisor's answer was lost.
func (g *fakeGuest) pull(key string, off int64) string {
	all, ok := g.printed[key]
	if !ok {
		return "gone=1\n"
	}
	rest := all[min(off, int64(len(all))):]
	return fmt.Sprintf("ended=1 start=ok code=0 sig=0 outseg=0 outoff=%d outn=%d outlast=1 errseg=0 erroff=0 errn=0 errlast=1 why=\n%s", off, len(rest), rest)
}

// fetch reads the log of a process from an offset on, waiting for some.
func (g *fakeGuest) fetch(key string, off, limit, hundredths int64) script {
	p, ok := g.started[key]
	if !ok {
		return script{out: func(time.Time) string { return "none=1\n" }}
	}
	due := time.Now().Add(time.Duration(hundredths) * 10 * time.Millisecond)
	if seconds := off/lineLen + 1; seconds < 1e6 {
		if next := p.since.Add(time.Duration(seconds) * time.Second); next.Before(due) {
			due = next
		}
	}
	return script{due: due, out: func(now time.Time) string {
		var log strings.Builder
		for n := range int64(now.Sub(p.since) / time.Second) {
			log.WriteString(line(n))
		}
		total := int64(log.Len())
		from := min(off, total)
		data := log.String()[from:min(total, from+limit)]
		return fmt.Sprintf("id=%s ended=0 start=ok started=%d begun=0 now=%d total=%d out=%d err=0 first=0 offset=%d n=%d gz=0 why=\n%s",
			p.id, p.since.Unix(), now.Sub(p.since)/(10*time.Millisecond), total, total, from, len(data), data)
	}}
}

func number(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}
