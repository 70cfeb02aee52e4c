package store

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"fmt"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// Events are a chain. Each row has the SHA-256 of its fields and of the hash of
// the row before it, and rows are numbered without a gap. So a row that was
// changed, removed, inserted or moved is found where it is. The ends are kept
// besides, as marks: the row that retention removed last, and the newest; so
// rows that are missing at an end are found, too. Marks are sealed with the
// installation's key: who has only the file can't make them for another chain.
//
// A mark whose seal is wrong is never given a right one again, whatever is
// appended or removed: what was found out stays to be found.

// row is a row of events.
type row struct{ sessions.Event }

// chained returns the hash of a row that comes after one with the hash prev. It
// is over the fields in the order of eventColumns: numbers as 8 bytes, the most
// significant first, and before each text its length as one.
func (r row) chained(prev []byte) []byte {
	b := make([]byte, 0, 512)
	number := func(n int64) { b = binary.BigEndian.AppendUint64(b, uint64(n)) }
	text := func(s string) { number(int64(len(s))); b = append(b, s...) }
	text(string(prev))
	number(r.Seq)
	number(stamp(r.At))
	for _, s := range []string{r.Sandbox, r.Principal, string(r.What), string(r.From), string(r.To), r.Detail} {
		text(s)
	}
	number(int64(r.Duration))
	text(r.Tool)
	text(r.Arguments)
	sum := sha256.Sum256(b)
	return sum[:]
}

// follows says that the row is the one after m, as it was written.
func (r row) follows(m mark) bool {
	return r.Seq == m.seq+1 && bytes.Equal(r.Hash, r.chained(m.hash))
}

// place is an end of the chain.
type place string

const (
	base place = "base"
	head place = "head"
)

// mark is an end of the chain: the number and the hash of a row.
type mark struct {
	seq  int64
	hash []byte
	seal []byte
}

// forged is a seal that is wrong for ever, and that of a mark that is gone.
var forged = []byte{0}

// selectMark, of a place; besides it the number of the newest row, which is
// another one if somebody else has written.
const selectMark = `SELECT coalesce(m.seq, 0), coalesce(m.hash, x''), coalesce(m.seal, x'00'), (SELECT coalesce(max(seq), 0) FROM events)
	FROM (SELECT ? AS place) AS p LEFT JOIN chain AS m ON m.place = p.place`

// putMark changes one. One that is gone is not made again.
const putMark = "UPDATE chain SET seq = ?, hash = ?, seal = ? WHERE place = ?"

func scanMark(r interface{ Scan(...any) error }) (m mark, newest int64, err error) {
	err = r.Scan(&m.seq, &m.hash, &m.seal, &newest)
	return m, newest, err
}

// sealer seals marks with a key; without one it makes and knows none.
type sealer []byte

// newSealer returns that of the installation with this key.
func newSealer(key provisioner.Key) (sealer, error) { return key.Derive("audit") }

func (s sealer) seal(p place, m mark) []byte {
	if s == nil {
		return []byte{}
	}
	mac := hmac.New(sha256.New, s)
	_, _ = fmt.Fprintf(mac, "%s %d %x", p, m.seq, m.hash) // never fails
	return mac.Sum(nil)
}

// sound says that the seal of a mark is right, which none is without a key.
func (s sealer) sound(p place, m mark) bool { return hmac.Equal(m.seal, s.seal(p, m)) }

// move returns the mark that takes the place of one: as sound as that, and not
// at all if the rows between them are not.
func (s sealer) move(p place, from mark, seq int64, hash []byte, rows bool) mark {
	to := mark{seq: seq, hash: hash, seal: forged}
	if rows && s.sound(p, from) {
		to.seal = s.seal(p, to)
	}
	return to
}

// seal seals the marks that never were: those of a database that is new, or from
// before there were any.
func (db *DB) seal(ctx context.Context, tx *sql.Tx) error {
	for _, p := range []place{base, head} {
		m, _, err := scanMark(tx.QueryRowContext(ctx, selectMark, p))
		if err != nil {
			return err
		}
		if len(m.seal) > 0 {
			continue
		}
		if _, err := tx.ExecContext(ctx, putMark, m.seq, m.hash, db.sealer.seal(p, m), p); err != nil {
			return err
		}
	}
	return nil
}

// chainBatch is how many rows are hashed at once.
const chainBatch = 1000

// chainAll makes a chain of the rows from before there was one, in old_events.
// Retention has left gaps between them, which are closed.
func chainAll(ctx context.Context, tx *sql.Tx) error {
	last, _, err := scanMark(tx.QueryRowContext(ctx, selectMark, head))
	if err != nil {
		return err
	}
	add, err := tx.PrepareContext(ctx, insertEvent)
	if err != nil {
		return err
	}
	defer add.Close()
	for done, more := last.seq, true; more; {
		rows, err := readRows(ctx, tx, "SELECT "+oldEventColumns+" FROM old_events WHERE seq > ? ORDER BY seq LIMIT ?", done, chainBatch)
		if err != nil {
			return err
		}
		for _, r := range rows {
			done = r.Seq
			r.Seq = last.seq + 1
			r.Hash = r.chained(last.hash)
			last.seq, last.hash = r.Seq, r.Hash
			if _, err := add.ExecContext(ctx, eventValues(r)...); err != nil {
				return err
			}
		}
		more = len(rows) == chainBatch
	}
	if _, err := tx.ExecContext(ctx, putMark, last.seq, last.hash, []byte{}, head); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "DROP TABLE old_events")
	return err
}

// rowsAfter returns the rows after one, at most limit of them.
func rowsAfter(ctx context.Context, tx *sql.Tx, seq int64, limit int) ([]row, error) {
	return readRows(ctx, tx, selectRows+" WHERE seq > ? ORDER BY seq LIMIT ?", seq, limit)
}

func readRows(ctx context.Context, q queryer, query string, args ...any) (list []row, err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		r, err := scanRow(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, rows.Err()
}

// follow returns the mark after rows that follow one, and whether they do.
func follow(m mark, rows []row) (last mark, sound bool) {
	last, sound = m, true
	for _, r := range rows {
		sound = sound && r.follows(last)
		last.seq, last.hash = r.Seq, r.Hash
	}
	return last, sound
}
