package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// Claim gives a member of a pool to its owner to be; see [sessions.Store].
func (db *DB) Claim(ctx context.Context, sb sessions.Sandbox, quota sessions.Quota, fit sessions.Fit, ch sessions.Change) (kept sessions.Sandbox, existing bool, err error) {
	err = db.tx(ctx, "claim for "+sb.ID, func(tx *sql.Tx) error {
		if kept, existing, err = admit(ctx, tx, sb, quota); err != nil || existing {
			return err
		}
		member, err := oldestReady(ctx, tx, sb, fit)
		if errors.Is(err, sql.ErrNoRows) {
			sb.Recipe = ""
			kept, err = db.insert(ctx, tx, sb, ch)
			return err
		}
		if err != nil {
			return err
		}
		kept, err = db.handOver(ctx, tx, member, sb, ch)
		return err
	})
	return kept, existing, err
}

// oldestReady returns the member of the pool of sb's profile that fits it. The
// state is named twice for the index of owners.
func oldestReady(ctx context.Context, tx *sql.Tx, sb sessions.Sandbox, fit sessions.Fit) (sessions.Sandbox, error) {
	except, err := json.Marshal(append([]string{}, fit.Except...)) // never null
	if err != nil {
		return sessions.Sandbox{}, err
	}
	return scan(tx.QueryRowContext(ctx, "SELECT "+columns+` FROM sandboxes
		WHERE owner = ? AND state <> 'DESTROYED' AND state = 'READY' AND recipe = ? AND recipe <> '' AND ends_at > ?
			AND id NOT IN (SELECT value FROM json_each(?))
		ORDER BY created_at, id LIMIT 1`,
		sessions.PoolOwner(sb.Profile), sb.Recipe, stamp(fit.EndsAfter), string(except)))
}

// handOver makes the member to. What it was made as stays. That it is READY and in
// the pool was read in the same transaction, which is the only one that writes.
func (db *DB) handOver(ctx context.Context, tx *sql.Tx, member, to sessions.Sandbox, ch sessions.Change) (sessions.Sandbox, error) {
	pool := member.Owner
	kept := member
	kept.Owner, kept.Name, kept.Created, kept.End, kept.MaxEnd = to.Owner, to.Name, to.Created, to.End, to.MaxEnd
	kept.State, kept.Begun, kept.Ready, kept.Recipe, kept.Keys = sessions.Booting, to.Created, time.Time{}, "", member.Keys+1
	_, err := tx.ExecContext(ctx, `UPDATE sandboxes SET owner = ?, name = ?, created_at = ?, begun_at = ?, ends_at = ?, max_end_at = ?,
		state = ?, ready_at = 0, recipe = '', keys = ? WHERE id = ?`,
		kept.Owner, kept.Name, stamp(kept.Created), stamp(kept.Begun), stamp(kept.End), stamp(kept.MaxEnd),
		kept.State, kept.Keys, kept.ID)
	if err != nil {
		return kept, err
	}
	return kept, db.addEvent(ctx, tx, sessions.Event{
		At: ch.At, Sandbox: kept.ID, Principal: ch.By, What: sessions.EventClaim, From: sessions.Ready, To: kept.State, Detail: pool,
	})
}

// Trust records what the papers of a machine say that was handed over; see
// [sessions.Store].
func (db *DB) Trust(ctx context.Context, sb sessions.Sandbox, ch sessions.Change) (kept sessions.Sandbox, err error) {
	err = db.tx(ctx, "trust papers of "+sb.ID, func(tx *sql.Tx) error {
		was, err := find(ctx, tx, sb.ID)
		if err != nil {
			return err
		}
		if _, taken, err := admit(ctx, tx, sb, sessions.Quota{}); err != nil {
			return err
		} else if taken {
			sb.Name = ""
		}
		res, err := tx.ExecContext(ctx, `UPDATE sandboxes SET owner = ?, name = ?, created_at = ?, begun_at = ?, ready_at = ?, ends_at = ?,
			max_end_at = ?, state = ?, handle = ?, recipe = '', keys = ?,
			home = coalesce(nullif(?, ''), home), os = coalesce(nullif(?, ''), os), ip = coalesce(nullif(?, ''), ip) WHERE id = ? AND ended_at = 0 AND keys < ?`,
			sb.Owner, sb.Name, stamp(sb.Created), stamp(sb.Begun), stamp(sb.Ready), stamp(sb.End),
			stamp(sb.MaxEnd), sb.State, sb.Handle, sb.Keys, sb.Home, sb.OS, sb.IP, sb.ID, sb.Keys)
		if err := oneRow(res, err); err != nil {
			return err
		}
		if kept, err = find(ctx, tx, sb.ID); err != nil {
			return err
		}
		return db.addEvent(ctx, tx, sessions.Event{At: ch.At, Sandbox: sb.ID, What: sessions.EventTrust, From: was.State, To: sb.State, Detail: ch.Reason})
	})
	return kept, err
}
