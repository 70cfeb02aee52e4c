package store

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/sessions"
)

var _ auth.Store = (*DB)(nil)

// tokenColumns, in the order of scanToken.
const tokenColumns = "id, name, hash, scopes, sandboxes, memory_mb, created_at, expires_at, used_at, revoked_at"

// AddToken records a new token; see [auth.Store].
func (db *DB) AddToken(ctx context.Context, t auth.Token, by string) error {
	return db.tx(ctx, "add token "+t.ID, func(tx *sql.Tx) error {
		var taken bool
		err := tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM tokens WHERE name = ? AND revoked_at = 0 AND (expires_at = 0 OR expires_at > ?))",
			t.Name, stamp(t.Created)).Scan(&taken)
		if err != nil {
			return err
		}
		if taken {
			return auth.ErrNameTaken
		}
		_, err = tx.ExecContext(ctx, "INSERT INTO tokens ("+tokenColumns+") VALUES (?,?,?,?,?,?,?,?,?,?)",
			t.ID, t.Name, t.Hash[:], t.Principal().ScopeText(), t.Quota.Sandboxes, t.Quota.MemoryMB,
			stamp(t.Created), stamp(t.Expires), stamp(t.Used), stamp(t.Revoked))
		if err != nil {
			return err
		}
		return db.addEvent(ctx, tx, tokenEvent(t, sessions.EventTokenCreate, t.Created, by))
	})
}

// Token returns one record; see [auth.Store].
func (db *DB) Token(ctx context.Context, id string) (auth.Token, error) {
	t, err := scanToken(db.r.QueryRowContext(ctx, "SELECT "+tokenColumns+" FROM tokens WHERE id = ?", id))
	if errors.Is(err, sql.ErrNoRows) {
		err = auth.ErrNoToken
	}
	return t, wrap("read token", err)
}

// Tokens returns all records, the oldest first.
func (db *DB) Tokens(ctx context.Context) ([]auth.Token, error) {
	list, err := queryTokens(ctx, db.r, "ORDER BY created_at, id")
	return list, wrap("list tokens", err)
}

// RevokeTokens revokes tokens; see [auth.Store].
func (db *DB) RevokeTokens(ctx context.Context, ref string, at time.Time, by string) (revoked []auth.Token, err error) {
	err = db.tx(ctx, "revoke token "+ref, func(tx *sql.Tx) error {
		known, err := queryTokens(ctx, tx, "WHERE id = ?1 OR name = ?1 ORDER BY created_at, id", ref)
		if err != nil {
			return err
		}
		if len(known) == 0 {
			return auth.ErrNoToken
		}
		for _, t := range known {
			if !t.Revoked.IsZero() {
				continue
			}
			t.Revoked = at
			revoked = append(revoked, t)
			if _, err := tx.ExecContext(ctx, "UPDATE tokens SET revoked_at = ? WHERE id = ?", stamp(at), t.ID); err != nil {
				return err
			}
			if err := db.addEvent(ctx, tx, tokenEvent(t, sessions.EventTokenRevoke, at, by)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return revoked, nil
}

// TokenUsed records the last use of a token.
func (db *DB) TokenUsed(ctx context.Context, id string, at time.Time) error {
	return db.tx(ctx, "use of token "+id, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE tokens SET used_at = ? WHERE id = ?", stamp(at), id)
		return err
	})
}

func tokenEvent(t auth.Token, what sessions.What, at time.Time, by string) sessions.Event {
	return sessions.Event{At: at, Principal: by, What: what, Detail: t.ID + " " + t.Name}
}

func queryTokens(ctx context.Context, q queryer, rest string, args ...any) ([]auth.Token, error) {
	rows, err := q.QueryContext(ctx, "SELECT "+tokenColumns+" FROM tokens "+rest, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []auth.Token
	for rows.Next() {
		t, err := scanToken(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, t)
	}
	return list, rows.Err()
}

func scanToken(row interface{ Scan(...any) error }) (t auth.Token, err error) {
	var created, expires, used, revoked int64
	var hash []byte
	var scopes string
	err = row.Scan(&t.ID, &t.Name, &hash, &scopes, &t.Quota.Sandboxes, &t.Quota.MemoryMB, &created, &expires, &used, &revoked)
	t.Created, t.Expires, t.Used, t.Revoked = moment(created), moment(expires), moment(used), moment(revoked)
	copy(t.Hash[:], hash)
	for s := range strings.FieldsSeq(scopes) {
		t.Scopes = append(t.Scopes, sessions.Scope(s))
	}
	return t, err
}
