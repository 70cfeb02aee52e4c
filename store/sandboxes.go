package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// columns of a sandbox, in the order of scan and of values.
const columns = `id, name, owner, profile, backend, state, reason, handle, ip, home, os,
	created_at, begun_at, ready_at, ends_at, max_end_at, ended_at, cores, memory_mb, disk_mb, network, recipe, keys`

const insertSandbox = "INSERT INTO sandboxes (" + columns + ") VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"

// Add records a new sandbox; see [sessions.Store].
func (db *DB) Add(ctx context.Context, sb sessions.Sandbox, quota sessions.Quota, ch sessions.Change) (kept sessions.Sandbox, existing bool, err error) {
	err = db.tx(ctx, "add "+sb.ID, func(tx *sql.Tx) error {
		if kept, existing, err = admit(ctx, tx, sb, quota); err != nil || existing {
			return err
		}
		kept, err = db.insert(ctx, tx, sb, ch)
		return err
	})
	return kept, existing, err
}

// admit returns the live sandbox that has the owner and the name of sb, or looks
// whether one more is within the quota.
func admit(ctx context.Context, tx *sql.Tx, sb sessions.Sandbox, quota sessions.Quota) (same sessions.Sandbox, existing bool, err error) {
	if sb.Name != "" {
		row := tx.QueryRowContext(ctx, "SELECT "+columns+" FROM sandboxes WHERE owner = ? AND name = ? AND name <> '' AND ended_at = 0", sb.Owner, sb.Name)
		same, err = scan(row)
		if !errors.Is(err, sql.ErrNoRows) {
			return same, err == nil, err
		}
	}
	used, err := usage(ctx, tx, sb.Owner)
	if err == nil && (over(quota.Sandboxes, used.Sandboxes+1) || over(quota.MemoryMB, used.MemoryMB+sb.MemoryMB)) {
		err = sessions.ErrOverQuota
	}
	return sb, false, err
}

func (db *DB) insert(ctx context.Context, tx *sql.Tx, sb sessions.Sandbox, ch sessions.Change) (sessions.Sandbox, error) {
	_, err := tx.ExecContext(ctx, insertSandbox, values(sb)...)
	if resultCode(err) == codeConstraint {
		err = fmt.Errorf("%w: %w", sessions.ErrConflict, err)
	}
	if err != nil {
		return sb, err
	}
	return sb, db.addEvent(ctx, tx, sessions.Event{At: ch.At, Sandbox: sb.ID, Principal: ch.By, What: sessions.EventCreate, To: sb.State, Detail: ch.Reason})
}

// Sandbox returns one record.
func (db *DB) Sandbox(ctx context.Context, id string) (sessions.Sandbox, error) {
	sb, err := scan(db.byID.QueryRowContext(ctx, id))
	if errors.Is(err, sql.ErrNoRows) {
		err = sessions.ErrNoRecord
	}
	return sb, wrap("read sandbox", err)
}

// List returns the records that q selects.
func (db *DB) List(ctx context.Context, q sessions.Query) ([]sessions.Sandbox, error) {
	where, args := []string{"ended_at = 0", "state <> 'DESTROYED'"}, []any{}
	if q.Ending {
		where = where[1:]
	}
	if q.Owner != "" {
		where, args = append(where, "owner = ?"), append(args, q.Owner)
	}
	if q.Backend != "" {
		where, args = append(where, "backend = ?"), append(args, q.Backend)
	}
	if len(q.Profile) > 0 {
		names, err := json.Marshal(q.Profile)
		if err != nil {
			return nil, wrap("list sandboxes", err)
		}
		where, args = append(where, "profile IN (SELECT value FROM json_each(?))"), append(args, string(names))
	}
	if q.After.ID != "" {
		where, args = append(where, "(created_at, id) > (?, ?)"), append(args, stamp(q.After.Created), q.After.ID)
	}
	order := "created_at, id"
	if q.ByEnd {
		order = "ends_at"
	}
	stmt := "SELECT " + columns + " FROM sandboxes WHERE " + strings.Join(where, " AND ") + " ORDER BY " + order
	if q.Limit > 0 {
		stmt, args = stmt+" LIMIT ?", append(args, q.Limit)
	}
	list, err := db.query(ctx, stmt, args...)
	return list, wrap("list sandboxes", err)
}

func (db *DB) query(ctx context.Context, stmt string, args ...any) ([]sessions.Sandbox, error) {
	rows, err := db.r.QueryContext(ctx, stmt, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []sessions.Sandbox
	for rows.Next() {
		sb, err := scan(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, sb)
	}
	return list, rows.Err()
}

// Usage adds up what sandboxes take.
func (db *DB) Usage(ctx context.Context, owner string) (sessions.Quota, error) {
	u, err := usage(ctx, db.r, owner)
	return u, wrap("read usage", err)
}

// queryer is a database or a transaction.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func usage(ctx context.Context, q queryer, owner string) (u sessions.Quota, err error) {
	stmt, args := "SELECT count(*), coalesce(sum(memory_mb), 0) FROM sandboxes WHERE state <> 'DESTROYED'", []any{}
	if owner != "" {
		stmt, args = stmt+" AND owner = ?", append(args, owner)
	}
	err = q.QueryRowContext(ctx, stmt, args...).Scan(&u.Sandboxes, &u.MemoryMB)
	return u, err
}

// Move changes the state of a sandbox; see [sessions.Store].
func (db *DB) Move(ctx context.Context, id string, to sessions.State, ch sessions.Change) (sb sessions.Sandbox, err error) {
	err = db.tx(ctx, "move "+id, func(tx *sql.Tx) error {
		if sb, err = find(ctx, tx, id); err != nil {
			return err
		}
		if ch.Owner != "" && ch.Owner != sb.Owner {
			return fmt.Errorf("it is no longer %s's: %w", ch.Owner, sessions.ErrConflict)
		}
		from := sb.State
		if !from.CanMove(to) {
			return fmt.Errorf("%s can't become %s: %w", from, to, sessions.ErrConflict)
		}
		if ch.Due && ch.At.Before(sb.End) {
			return fmt.Errorf("it may live until %v: %w", sb.End, sessions.ErrConflict)
		}
		moved(&sb, to, ch)
		_, err = tx.ExecContext(ctx, `UPDATE sandboxes SET state = ?, reason = ?, handle = ?, ip = ?, home = ?, os = ?,
			begun_at = ?, ready_at = ?, ended_at = ? WHERE id = ?`, // its state is still from: no other transaction writes
			sb.State, sb.Reason, sb.Handle, sb.IP, sb.Home, sb.OS, stamp(sb.Begun), stamp(sb.Ready), stamp(sb.Ended), id)
		if err != nil {
			return err
		}
		return db.addEvent(ctx, tx, sessions.Event{At: ch.At, Sandbox: id, Principal: ch.By, What: sessions.EventState, From: from, To: to, Detail: ch.Reason})
	})
	return sb, err
}

// moved applies a change of state to the record.
func moved(sb *sessions.Sandbox, to sessions.State, ch sessions.Change) {
	if sb.State.Live() && !to.Live() {
		sb.Ended = ch.At
	}
	if to == sessions.Provisioning {
		sb.Begun = ch.At
	}
	if to == sessions.Ready && sb.Ready.IsZero() {
		sb.Ready = ch.At
	}
	sb.State = to
	if ch.Reason != "" || to == sessions.Ready { // what was the matter is over
		sb.Reason = ch.Reason
	}
	if m := ch.Machine; m != nil {
		sb.Handle, sb.IP, sb.Home, sb.OS = m.Handle, m.IP, m.Home, m.OS
	}
}

// Intend records the handle of a machine to be; see [sessions.Store]. It is no
// event: what becomes of it will be one.
func (db *DB) Intend(ctx context.Context, id, handle string) error {
	return db.tx(ctx, "intend "+id, func(tx *sql.Tx) error {
		return oneRow(tx.ExecContext(ctx, "UPDATE sandboxes SET handle = ? WHERE id = ? AND state IN (?, ?)",
			handle, id, sessions.Provisioning, sessions.Booting))
	})
}

// SetEnd changes the end of a sandbox; see [sessions.Store].
func (db *DB) SetEnd(ctx context.Context, id string, end time.Time, ch sessions.Change) (sb sessions.Sandbox, err error) {
	err = db.tx(ctx, "set end of "+id, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, "UPDATE sandboxes SET ends_at = ?1 WHERE id = ?2 AND ended_at = 0 AND ends_at > ?3 AND max_end_at >= ?1",
			stamp(end), id, stamp(ch.At))
		if err := oneRow(res, err); err != nil {
			return err
		}
		if sb, err = find(ctx, tx, id); err != nil {
			return err
		}
		return db.addEvent(ctx, tx, sessions.Event{At: ch.At, Sandbox: id, Principal: ch.By, What: sessions.EventExtend, Detail: end.Format(time.RFC3339)})
	})
	return sb, err
}

// oneRow says a conflict if a conditional update found nothing to change.
func oneRow(res sql.Result, err error) error {
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); n != 1 || err != nil {
		return errors.Join(sessions.ErrConflict, err)
	}
	return nil
}

func find(ctx context.Context, q queryer, id string) (sessions.Sandbox, error) {
	sb, err := scan(q.QueryRowContext(ctx, "SELECT "+columns+" FROM sandboxes WHERE id = ?", id))
	if errors.Is(err, sql.ErrNoRows) {
		return sb, sessions.ErrNoRecord
	}
	return sb, err
}

func scan(row interface{ Scan(...any) error }) (sb sessions.Sandbox, err error) {
	var created, begun, ready, end, maxEnd, ended int64
	err = row.Scan(&sb.ID, &sb.Name, &sb.Owner, &sb.Profile, &sb.Backend, &sb.State, &sb.Reason, &sb.Handle, &sb.IP, &sb.Home, &sb.OS,
		&created, &begun, &ready, &end, &maxEnd, &ended, &sb.Cores, &sb.MemoryMB, &sb.DiskMB, &sb.Network, &sb.Recipe, &sb.Keys)
	sb.Created, sb.Begun, sb.Ready, sb.End, sb.MaxEnd, sb.Ended = moment(created), moment(begun), moment(ready), moment(end), moment(maxEnd), moment(ended)
	return sb, err
}

func values(sb sessions.Sandbox) []any {
	return []any{sb.ID, sb.Name, sb.Owner, sb.Profile, sb.Backend, sb.State, sb.Reason, sb.Handle, sb.IP, sb.Home, sb.OS,
		stamp(sb.Created), stamp(sb.Begun), stamp(sb.Ready), stamp(sb.End), stamp(sb.MaxEnd), stamp(sb.Ended), sb.Cores, sb.MemoryMB, sb.DiskMB, sb.Network, sb.Recipe, sb.Keys}
}

// stamp and moment turn times into what is stored and back.
func stamp(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func moment(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

// over says that n is more than a limit, where no limit is 0.
func over(limit, n int) bool { return limit > 0 && n > limit }
