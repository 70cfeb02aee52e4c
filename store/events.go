package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/agentlab-mcp/agentlab/sessions"
)

const insertEvent = "INSERT INTO events (time, sandbox, principal, what, from_state, to_state, detail, duration) VALUES (?,?,?,?,?,?,?,?)"

// pruneBatch bounds one transaction of Prune: writers wait for it.
const pruneBatch = 2000

// Log appends an event.
func (db *DB) Log(ctx context.Context, e sessions.Event) error {
	_, err := db.event.ExecContext(ctx, eventValues(e)...)
	return wrap("log "+e.What, err)
}

// addEvent appends an event in the transaction of the change that it is of.
func addEvent(ctx context.Context, tx *sql.Tx, e sessions.Event) error {
	_, err := tx.ExecContext(ctx, insertEvent, eventValues(e)...)
	return err
}

func eventValues(e sessions.Event) []any {
	return []any{stamp(e.At), e.Sandbox, e.Principal, e.What, e.From, e.To, e.Detail, int64(e.Duration)}
}

// Prune forgets what is old; see [sessions.Store].
func (db *DB) Prune(ctx context.Context, before time.Time, keepEvents int) (more bool, err error) {
	err = db.tx(ctx, "prune", func(tx *sql.Tx) error {
		for _, p := range []struct {
			stmt string
			args []any
		}{
			{"DELETE FROM sandboxes WHERE id IN (SELECT id FROM sandboxes WHERE state = 'DESTROYED' AND ended_at < ? ORDER BY ended_at LIMIT ?)",
				[]any{stamp(before), pruneBatch}},
			// Events are numbered in the order of their time, so the oldest are looked at and no others.
			{"DELETE FROM events WHERE seq IN (SELECT seq FROM (SELECT seq, time FROM events ORDER BY seq LIMIT ?2) WHERE time < ?1)",
				[]any{stamp(before), pruneBatch}},
			{"DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE seq <= (SELECT max(seq) FROM events) - ? ORDER BY seq LIMIT ?)",
				[]any{keepEvents, pruneBatch}},
		} {
			res, err := tx.ExecContext(ctx, p.stmt, p.args...)
			if err != nil {
				return err
			}
			n, err := res.RowsAffected()
			if err != nil {
				return err
			}
			more = more || n == pruneBatch
		}
		return nil
	})
	return more && err == nil, err
}
