package store

import (
	"context"
	"database/sql"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// eventColumns, in the order of eventValues and of scanRow.
const eventColumns = "seq, time, sandbox, principal, what, from_state, to_state, detail, duration, tool, arguments, hash"

// oldEventColumns are those of old_events: the same.
const oldEventColumns = "seq, time, sandbox, principal, what, from_state, to_state, detail, duration, '', '', x''"

const (
	insertEvent = "INSERT INTO events (" + eventColumns + ") VALUES (?,?,?,?,?,?,?,?,?,?,?,?)"
	selectRows  = "SELECT " + eventColumns + " FROM events"
)

// pruneBatch bounds one transaction of Prune: writers wait for it.
const pruneBatch = 2000

// Log appends an event.
func (db *DB) Log(ctx context.Context, e sessions.Event) error {
	return db.tx(ctx, "log "+string(e.What), func(tx *sql.Tx) error { return db.addEvent(ctx, tx, e) })
}

// addEvent appends an event in the transaction of the change that it is of.
func (db *DB) addEvent(ctx context.Context, tx *sql.Tx, e sessions.Event) error {
	last, newest, err := scanMark(tx.StmtContext(ctx, db.mark).QueryRowContext(ctx, head)) //nolint:sqlclosecheck // it is closed with tx
	if err != nil {
		return err
	}
	r := row{e}
	r.Seq = max(last.seq, newest) + 1
	r.Hash = r.chained(last.hash)
	if _, err := tx.StmtContext(ctx, db.event).ExecContext(ctx, eventValues(r)...); err != nil { //nolint:sqlclosecheck // it is closed with tx
		return err
	}
	next := db.sealer.move(head, last, r.Seq, r.Hash, true)
	_, err = tx.StmtContext(ctx, db.setMark).ExecContext(ctx, next.seq, next.hash, next.seal, head) //nolint:sqlclosecheck // it is closed with tx
	return err
}

func eventValues(r row) []any {
	return []any{r.Seq, stamp(r.At), r.Sandbox, r.Principal, r.What, r.From, r.To, r.Detail, int64(r.Duration), r.Tool, r.Arguments, r.Hash}
}

func scanRow(rows interface{ Scan(...any) error }) (r row, err error) {
	var at int64
	err = rows.Scan(&r.Seq, &at, &r.Sandbox, &r.Principal, &r.What, &r.From, &r.To, &r.Detail, &r.Duration, &r.Tool, &r.Arguments, &r.Hash)
	r.At = moment(at)
	return r, err
}

// Events returns events; see [sessions.Store].
func (db *DB) Events(ctx context.Context, q sessions.EventQuery) (list []sessions.Event, last int64, err error) {
	late := time.NewTimer(q.Wait)
	defer late.Stop()
	for q.After = max(q.After, 0); ; q.After = last {
		changed := db.changes.next()
		if list, last, err = db.events(ctx, q); err != nil || len(list) > 0 {
			return list, last, wrap("read events", err)
		}
		select {
		case <-changed:
		case <-late.C:
			return nil, last, nil
		case <-ctx.Done():
			return nil, last, ctx.Err()
		}
	}
}

// events returns what there is now.
func (db *DB) events(ctx context.Context, q sessions.EventQuery) (list []sessions.Event, last int64, err error) {
	if err := db.r.QueryRowContext(ctx, "SELECT max(?, coalesce(max(seq), 0)) FROM events", q.After).Scan(&last); err != nil {
		return nil, q.After, err
	}
	after := q.After
	if after == 0 && !q.Since.IsZero() { // who goes on has come past it, and need not look for it again
		first, err := db.firstSince(ctx, q.Since, last)
		if err != nil {
			return nil, q.After, err
		}
		after = first - 1
	}
	query, args := eventQuery(q, after, last)
	rows, err := readRows(ctx, db.r, query, args...)
	if err != nil {
		return nil, q.After, err
	}
	for _, r := range rows {
		list = append(list, r.Event)
	}
	if len(list) == q.Limit {
		last = list[len(list)-1].Seq
	}
	return list, last, nil
}

// eventQuery asks for the rows after one and up to another.
func eventQuery(q sessions.EventQuery, after, last int64) (query string, args []any) {
	where, args := " WHERE seq > ? AND seq <= ?", []any{after, last}
	and := func(condition string, arg any) { where, args = where+" AND "+condition, append(args, arg) }
	if !q.Since.IsZero() {
		and("+time >= ?", stamp(q.Since)) // not by its index: rows are read in their order
	}
	if q.Sandbox != "" {
		and("sandbox = ?", q.Sandbox)
	}
	if q.Principal != "" {
		and("principal = ?", q.Principal)
	}
	return selectRows + where + " ORDER BY seq LIMIT ?", append(args, q.Limit)
}

// firstSince returns the first row that is not older, or the one after last.
func (db *DB) firstSince(ctx context.Context, since time.Time, last int64) (seq int64, err error) {
	err = db.r.QueryRowContext(ctx, "SELECT coalesce(min(+seq), ? + 1) FROM events INDEXED BY events_at WHERE time >= ?", last, stamp(since)).Scan(&seq)
	return seq, err
}

// changes wakes who waits for a change of the database.
type changes struct {
	mu      sync.Mutex
	waiting chan struct{} // nil: nobody waits
}

// next returns a channel that is closed at the next change.
func (c *changes) next() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		c.waiting = make(chan struct{})
	}
	return c.waiting
}

func (c *changes) publish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting != nil {
		close(c.waiting)
		c.waiting = nil
	}
}

// Prune forgets what is old; see [sessions.Store].
func (db *DB) Prune(ctx context.Context, before time.Time, keepEvents int) (more bool, err error) {
	err = db.tx(ctx, "prune", func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, "DELETE FROM sandboxes WHERE id IN (SELECT id FROM sandboxes WHERE state = 'DESTROYED' AND ended_at < ? ORDER BY ended_at LIMIT ?)",
			stamp(before), pruneBatch)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if err != nil {
			return err
		}
		events, err := db.pruneEvents(ctx, tx, before, keepEvents)
		more = n == pruneBatch || events == pruneBatch
		return err
	})
	return more && err == nil, err
}

// pruneEvents removes the oldest events, up to the first that is to stay, and
// returns how many. That there are no others before is marked.
func (db *DB) pruneEvents(ctx context.Context, tx *sql.Tx, before time.Time, keepEvents int) (int, error) {
	was, newest, err := scanMark(tx.QueryRowContext(ctx, selectMark, base))
	if err != nil {
		return 0, err
	}
	rows, err := rowsAfter(ctx, tx, was.seq, pruneBatch)
	if err != nil {
		return 0, err
	}
	n := 0
	for n < len(rows) && (rows[n].At.Before(before) || rows[n].Seq <= newest-int64(keepEvents)) {
		n++
	}
	if n == 0 {
		return 0, nil
	}
	last, sound := follow(was, rows[:n])
	next := db.sealer.move(base, was, last.seq, last.hash, sound)
	if _, err := tx.ExecContext(ctx, putMark, next.seq, next.hash, next.seal, base); err != nil {
		return 0, err
	}
	_, err = tx.ExecContext(ctx, "DELETE FROM events WHERE seq <= ?", next.seq)
	return n, err
}
