package store

import (
	"context"
	"database/sql"
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
	return db.tx(ctx, "log "+e.What, func(tx *sql.Tx) error { return db.addEvent(ctx, tx, e) })
}

// addEvent appends an event in the transaction of the change that it is of.
func (db *DB) addEvent(ctx context.Context, tx *sql.Tx, e sessions.Event) error {
	last, newest, err := scanMark(tx.StmtContext(ctx, db.mark).QueryRowContext(ctx, head))
	if err != nil {
		return err
	}
	r := row{seq: max(last.seq, newest) + 1, Event: e}
	r.hash = r.chained(last.hash)
	if _, err := tx.StmtContext(ctx, db.event).ExecContext(ctx, eventValues(r)...); err != nil {
		return err
	}
	next := db.sealer.move(head, last, r.seq, r.hash, true)
	_, err = tx.StmtContext(ctx, db.setMark).ExecContext(ctx, next.seq, next.hash, next.seal, head)
	return err
}

func eventValues(r row) []any {
	return []any{r.seq, stamp(r.At), r.Sandbox, r.Principal, r.What, r.From, r.To, r.Detail, int64(r.Duration), r.Tool, r.Arguments, r.hash}
}

func scanRow(rows interface{ Scan(...any) error }) (r row, err error) {
	var at int64
	err = rows.Scan(&r.seq, &at, &r.Sandbox, &r.Principal, &r.What, &r.From, &r.To, &r.Detail, &r.Duration, &r.Tool, &r.Arguments, &r.hash)
	r.At = moment(at)
	return r, err
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
	for n < len(rows) && (rows[n].At.Before(before) || rows[n].seq <= newest-int64(keepEvents)) {
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
