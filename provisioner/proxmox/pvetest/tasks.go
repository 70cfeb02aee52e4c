package pvetest

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"
)

// Task is a worker of a node, running or ended.
type Task struct {
	upid, node, typ, id string
	who                 identity
	pid                 int
	pstart              int64
	start, end          time.Time
	log                 []string
	exit                string // empty while it runs
	stop                context.CancelCauseFunc
	done                chan struct{}
	endless             bool          // it works until it is stopped
	begun               time.Duration // of its work, already spent
	warned              int           // warnings in the log
}

// job is what a task's work sees.
type job struct {
	*Task
	c   *call
	ctx context.Context // ends when the task is stopped
}

// How a task was ended from outside.
var (
	errStopped = errors.New("interrupted by signal")
	errKilled  = errors.New("killed") // without a chance to clean up
	errPipe    = errors.New("broken pipe ")
)

// print adds lines to the task's log.
func (j *job) print(line string) {
	j.log = append(j.log, line)
	if j.c.shell != nil {
		j.c.shell.say(line)
	}
}

func (j *job) printf(format string, args ...any) { j.print(fmt.Sprintf(format, args...)) }

// warn adds a warning to the log, which shows in the exit status of a task that
// ends well (pve-common RESTEnvironment.pm log_warn).
func (j *job) warn(text string) {
	j.warned++
	j.print("WARN: " + text)
}

// spend is the time the task works, during which it can be stopped.
func (j *job) spend() error { return j.spendAs(j.typ) }

func (j *job) spendAs(typ string) error {
	if err := j.c.s.pass(j.ctx, typ); err != nil {
		return err
	}
	j.endless = j.c.s.TaskTime[typ] < 0
	if err := j.c.s.sleep(j.ctx, j.c.s.TaskTime[typ]-j.begun); err != nil {
		if cause := context.Cause(j.ctx); cause != nil {
			return cause
		}
		return err
	}
	return nil
}

// begin is the first tenth of the time the task works.
func (j *job) begin() error {
	if err := j.c.s.pass(j.ctx, j.typ+" begins"); err != nil {
		return err
	}
	if d := j.c.s.TaskTime[j.typ]; d > 0 {
		j.begun = d / 10
		return j.c.s.sleep(j.ctx, j.begun)
	}
	return nil
}

// pass waits until the gate before a step is open. Most have none.
func (s *Server) pass(ctx context.Context, step string) error {
	gate := s.gates[step]
	if gate == nil {
		return nil
	}
	var err error
	s.unlocked(func() {
		select {
		case <-gate:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	})
	return err
}

// killed says that the worker is gone and cleans nothing up.
func (j *job) killed() bool { return errors.Is(context.Cause(j.ctx), errKilled) }

// fork starts a worker and returns its UPID. What work returns is the task's
// error. Under pvesh the worker runs in the foreground.
func (c *call) fork(typ, id string, work func(j *job) error) (any, error) {
	s := c.s
	ctx, stop := context.WithCancelCause(s.ctx)
	pid := s.nextPID()
	t := &Task{
		node: c.node.Name, typ: typ, id: id, who: c.who, pid: pid, pstart: s.jiffies(), start: time.Now(),
		stop: stop, done: make(chan struct{}),
	}
	t.upid = fmt.Sprintf("UPID:%s:%08X:%08X:%08X:%s:%s:%s:", t.node, pid, t.pstart, t.start.Unix(), typ, id, c.who.name)
	s.c.tasks = append(s.c.tasks, t)
	s.c.byUPID[t.upid] = t
	j := &job{Task: t, c: c, ctx: ctx}
	s.work.Go(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		c.job = j
		j.finish(work(j))
	})
	if c.shell != nil {
		c.shell.running(t)
		s.unlocked(func() { <-t.done })
	}
	return t.upid, nil
}

// forkAwaited is fork for calls that answer null, or the task's error, if it has
// ended within the seconds that the parameter delay gives.
func (c *call) forkAwaited(delay, typ, id string, work func(j *job) error) (any, error) {
	upid, err := c.fork(typ, id, work)
	if err != nil || !c.p.has(delay) {
		return upid, err
	}
	t := c.s.c.byUPID[upid.(string)]
	c.s.wait(t, c.s.patience(time.Duration(c.p.num(delay))*time.Second, 1))
	switch {
	case t.running():
		return upid, nil
	case t.exit != "OK" && !warnings.MatchString(t.exit):
		return nil, die("%s", t.exit)
	}
	return nil, nil
}

// finish writes the last line of the log, from which PVE reads the exit status
// (pve-common Tools.pm upid_read_status).
func (j *job) finish(err error) {
	exit := "OK"
	switch {
	case err != nil:
		exit = asAPIError(err).inTask()
	case j.warned > 0:
		exit = fmt.Sprintf("WARNINGS: %d", j.warned)
	}
	if f := j.c.s.TaskFail; f != nil {
		if forced := f(j.typ, j.id); forced != "" {
			exit = forced
		}
	}
	switch {
	case j.killed() || exit == "unexpected status":
		exit = "unexpected status"
	case exit == "OK":
		j.log = append(j.log, "TASK OK")
	case warnings.MatchString(exit):
		j.log = append(j.log, "TASK "+exit)
	default:
		j.log = append(j.log, "TASK ERROR: "+exit)
		if j.c.shell != nil {
			j.c.shell.warn(exit)
		}
	}
	j.exit, j.end = exit, time.Now()
	j.stop(nil)
	close(j.done)
}

var warnings = regexp.MustCompile(`^WARNINGS: \d+$`)

// running says whether the worker still runs.
func (t *Task) running() bool { return t.exit == "" }

// wait returns when the task has ended, or after d.
func (s *Server) wait(t *Task, d time.Duration) {
	s.unlocked(func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-t.done:
		case <-timer.C:
		}
	})
}

// entry is a task in a list of finished ones.
func (t *Task) entry() map[string]any {
	user, token, isToken := cutToken(t.who.name)
	e := map[string]any{
		"upid": t.upid, "node": t.node, "pid": t.pid, "pstart": t.pstart, "starttime": t.start.Unix(),
		"type": t.typ, "id": t.id, "user": user, "status": t.exit, "endtime": t.end.Unix(),
	}
	if isToken {
		e["tokenid"] = token
	}
	return e
}

// active is a task in the list of running ones, which names users otherwise
// (measured).
func (t *Task) active() map[string]any {
	e := t.entry()
	delete(e, "tokenid")
	delete(e, "endtime")
	e["user"], e["status"], e["saved"] = t.who.name, "RUNNING", "0"
	return e
}

// state is GET tasks/UPID/status.
func (t *Task) state() map[string]any {
	e := t.entry()
	delete(e, "endtime")
	e["status"] = "running"
	if !t.running() {
		e["status"], e["exitstatus"] = "stopped", t.exit
	}
	return e
}
