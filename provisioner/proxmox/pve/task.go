package pve

import (
	"bytes"
	"context"
	"encoding/json"
	"net/url"
	"regexp"
	"strconv"
)

// Task is the state of a task.
type Task struct {
	UPID      UPID   `json:"upid"`
	Type      string `json:"type"`
	Status    string `json:"status"` // running or stopped
	Exit      string `json:"exitstatus"`
	StartTime Int    `json:"starttime"` // Unix seconds
}

// Done reports whether the task has ended.
func (t Task) Done() bool { return t.Status == "stopped" }

// "WARNINGS: n" is a success (PVE/Tools.pm).
var exitOK = regexp.MustCompile(`^(?:OK|WARNINGS: \d+)$`)

// Err is nil unless the task has ended in failure.
func (t Task) Err() error {
	if !t.Done() || exitOK.MatchString(t.Exit) {
		return nil
	}
	return taskError(t.UPID, t.Exit)
}

// TaskStatus returns the state of a task. Use [Client.Wait] to await its end.
func (c *Client) TaskStatus(ctx context.Context, id UPID) (Task, error) {
	t := Task{UPID: id}
	err := c.call(ctx, getTaskStatus, []any{id.Node(), id}, nil, &t)
	return t, err
}

// ActiveTasks returns the tasks that run on the node, as far as the token may
// see them.
func (c *Client) ActiveTasks(ctx context.Context, node string) ([]UPID, error) {
	var list []struct {
		UPID   UPID   `json:"upid"`
		Status string `json:"status"`
	}
	params := url.Values{"source": {"active"}, "limit": {"1000"}} // the default is 50
	if err := c.call(ctx, getTasks, []any{node}, params, &list); err != nil {
		return nil, err
	}
	var active []UPID
	for _, t := range list {
		if t.Status == "RUNNING" || t.Status == "" {
			active = append(active, t.UPID)
		}
	}
	return active, nil
}

// taskLog is a log as it is sent: an object if the task has none (PVE/Tools.pm).
type taskLog []struct{ T string }

func (l *taskLog) UnmarshalJSON(data []byte) error {
	if bytes.HasPrefix(data, []byte("{")) {
		return nil
	}
	return json.Unmarshal(data, (*[]struct{ T string })(l))
}

// TaskLog returns the last lines of a task's log, at most limit. What made a
// start fail is often only there (measured: "start failed: QEMU exited with
// code 1").
func (c *Client) TaskLog(ctx context.Context, id UPID, limit int) ([]string, error) {
	var lines taskLog
	// 0 is all of it; the default would be the first 50 lines.
	if err := c.call(ctx, getTaskLog, []any{id.Node(), id}, url.Values{"limit": {"0"}}, &lines); err != nil {
		return nil, err
	}
	var text []string
	for _, l := range lines[max(0, len(lines)-limit):] {
		text = append(text, l.T)
	}
	return text, nil
}

// AbortTask stops a task. The task may have ended well meanwhile: look at how
// it ended before cleaning up.
func (c *Client) AbortTask(ctx context.Context, id UPID) error {
	return c.call(ctx, deleteTask, []any{id.Node(), id}, nil, nil)
}

// seconds writes a parameter; 0 leaves it out.
func seconds(n int) string {
	if n <= 0 {
		return ""
	}
	return strconv.Itoa(n)
}
