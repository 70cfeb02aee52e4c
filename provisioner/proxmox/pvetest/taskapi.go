package pvetest

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

func taskRoutes() []*route {
	const tasks = "/nodes/{node}/tasks"
	return []*route{
		{method: "GET", path: "/cluster/tasks", call: clusterTasks},
		{method: "GET", path: tasks, call: listTasks, params: "errors=bool limit=int,min=0 since=int source=enum:archive/active/all" +
			" start=int,min=0 statusfilter=task-status-list typefilter until=int userfilter vmid=vmid"},
		{method: "GET", path: tasks + "/{upid}", call: taskIndex},
		{method: "GET", path: tasks + "/{upid}/status", call: taskStatus, daemon: true},
		{method: "GET", path: tasks + "/{upid}/log", call: taskLog, daemon: true, params: "download=bool limit=int,min=0 start=int,min=0"},
		{method: "DELETE", path: tasks + "/{upid}", call: stopTask, daemon: true},
	}
}

var upidText = regexp.MustCompile(`^UPID:([a-zA-Z0-9-]+):[0-9A-Fa-f]{8}:[0-9A-Fa-f]{8,9}:[0-9A-Fa-f]{8}:[^:\s]+:[^:\s]*:[^:\s]+:$`)

// task finds the task the path names. It is readable by who started it, by his
// user if that was a token, and with a right on the node (Tasks.pm:27).
func (c *call) task(priv string) (*Task, error) {
	upid := c.p.str("upid")
	if !upidText.MatchString(upid) {
		return nil, badParam("upid", "unable to parse worker upid")
	}
	owner := strings.Split(upid, ":")[7]
	user, _, _ := cutToken(owner)
	if c.who.name != owner && c.who.name != user {
		if err := c.check("/nodes/"+c.node.Name, priv); err != nil {
			return nil, err
		}
	}
	t := c.s.c.byUPID[upid]
	if t == nil || t.node != c.node.Name {
		return nil, nil
	}
	return t, nil
}

func taskIndex(*call) (any, error) {
	return []map[string]any{{"name": "log"}, {"name": "status"}}, nil
}

func taskStatus(c *call) (any, error) {
	t, err := c.task("Sys.Audit")
	if err != nil {
		return nil, err
	}
	if t == nil {
		return nil, badParam("upid", "no such task")
	}
	return t.state(), nil
}

// taskLog of an unknown task is a 200 with an object (Tools.pm:1427).
func taskLog(c *call) (any, error) {
	t, err := c.task("Sys.Audit")
	if err != nil {
		return nil, err
	}
	if t == nil {
		return paged{map[string]any{"n": 1, "t": "unable to open file - No such file or directory"}, 1, true}, nil
	}
	if c.p.flag("download") {
		return download(strings.Join(t.log, "\n") + "\n"), nil
	}
	start, limit := c.p.num("start"), 50
	if c.p.has("limit") {
		limit = c.p.num("limit")
	}
	lines := []map[string]any{}
	for i := start; i < len(t.log) && (limit == 0 || i < start+limit); i++ {
		lines = append(lines, map[string]any{"n": i + 1, "t": t.log[i]})
	}
	return paged{lines, len(t.log), true}, nil
}

// stopTask answers null whatever became of the task, after up to 2 s.
func stopTask(c *call) (any, error) {
	t, err := c.task("Sys.Modify")
	if err != nil {
		return nil, err
	}
	if t == nil {
		return nil, badParam("upid", "no such task")
	}
	if t.running() {
		t.stop(errStopped)
		c.s.wait(t, 5*time.Second)
	}
	return nil, nil
}

// clusterTasks are the last 25 of every node that the caller may see.
func clusterTasks(c *call) (any, error) {
	out := []map[string]any{}
	count := map[string]int{}
	for _, t := range slices.Backward(c.s.c.tasks) {
		if count[t.node]++; count[t.node] > 25 || !c.sees(t) {
			continue
		}
		if t.running() {
			e := t.active()
			delete(e, "status")
			out = append(out, e)
			continue
		}
		e := t.entry()
		e["saved"] = "1"
		delete(e, "pid")
		delete(e, "pstart")
		out = append(out, e)
	}
	return out, nil
}

func (c *call) sees(t *Task) bool {
	user, _, _ := cutToken(t.who.name)
	return c.who.name == t.who.name || c.who.name == user || c.allowed("/nodes/"+t.node, "Sys.Audit")
}

func listTasks(c *call) (any, error) {
	source := c.p.str("source")
	var list []map[string]any
	if source == "active" || source == "all" {
		for _, t := range slices.Backward(c.s.c.tasks) {
			if t.running() && c.wants(t) {
				list = append(list, t.active())
			}
		}
	}
	if source != "active" {
		var ended []*Task
		for _, t := range c.s.c.tasks {
			if !t.running() && c.wants(t) {
				ended = append(ended, t)
			}
		}
		slices.SortStableFunc(ended, func(a, b *Task) int { return b.end.Compare(a.end) })
		for _, t := range ended {
			list = append(list, t.entry())
		}
	}
	start, limit := c.p.num("start"), 50
	if c.p.has("limit") {
		limit = c.p.num("limit")
	}
	total := len(list)
	from := min(start, total)
	page := append([]map[string]any{}, list[from:min(from+limit, total)]...)
	return paged{page, total, total > 0}, nil
}

// wants applies the filters of a task list.
func (c *call) wants(t *Task) bool {
	failed := !t.running() && t.exit != "OK" && !warnings.MatchString(t.exit)
	switch {
	case t.node != c.node.Name || !c.sees(t):
	case c.p.flag("errors") && !failed:
	case c.p.has("vmid") && t.id != strconv.Itoa(c.vmid()):
	case c.p.has("typefilter") && !strings.HasPrefix(t.typ, c.p.str("typefilter")):
	case c.p.has("userfilter") && !strings.Contains(t.who.name, c.p.str("userfilter")):
	case c.p.has("since") && t.start.Unix() < int64(c.p.num("since")):
	case c.p.has("until") && t.start.Unix() > int64(c.p.num("until")):
	case c.p.has("statusfilter") && !slices.Contains(c.p.list("statusfilter"), statusType(t.exit)):
	default:
		return true
	}
	return false
}

// statusType is Tools.pm upid_normalize_status_type.
func statusType(exit string) string {
	switch {
	case exit == "OK":
		return "ok"
	case warnings.MatchString(exit):
		return "warning"
	case exit == "unexpected status":
		return "unknown"
	}
	return "error"
}
