package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// Trail is what Audit has read of the events.
type Trail struct {
	Rows    int    // that follow each other, from the oldest
	Removed int64  // number of the row that retention removed last, 0 if it has removed none
	Last    int64  // number of the newest row
	Hash    []byte // of it: vouches for all rows before it
	Sealed  bool   // the ends were looked at with the key
}

// Broken is that the events are not those that were written: the first row
// that shows it, and how.
type Broken struct {
	Seq  int64
	What string
}

// Error names the row.
func (b *Broken) Error() string { return fmt.Sprintf("event %d %s", b.Seq, b.What) }

// Audit reads all events of the database at path, also while a daemon uses it,
// and changes nothing. With the key of the installation it also looks at the seals
// of the ends of the chain; nil looks at none.
//
// Errors: *Broken; fs.ErrNotExist.
func Audit(ctx context.Context, path string, key *provisioner.Key) (t Trail, err error) {
	if _, err := os.Stat(path); err != nil {
		return t, err
	}
	var s sealer
	if key != nil {
		if s, err = newSealer(*key); err != nil {
			return t, err
		}
	}
	db := connections(path, "mode=ro", 1, []string{"PRAGMA busy_timeout = 5000"})
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.BeginTx(ctx, nil) // all of it of one moment
	if err != nil {
		return t, wrap("read "+path, err)
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	t, err = audit(ctx, tx, s)
	return t, wrap("audit "+path, err)
}

func audit(ctx context.Context, tx *sql.Tx, s sealer) (Trail, error) {
	var version int
	if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return Trail{}, err
	}
	if version < chained {
		return Trail{}, errors.New("its events are no chain yet: it was last used by an older AgentLab, and the next start of the daemon makes them one")
	}
	first, _, err := scanMark(tx.QueryRowContext(ctx, selectMark, base))
	if err != nil {
		return Trail{}, err
	}
	last, _, err := scanMark(tx.QueryRowContext(ctx, selectMark, head))
	if err != nil {
		return Trail{}, err
	}
	t := Trail{Removed: first.seq, Last: last.seq, Hash: last.hash, Sealed: s != nil}
	if s != nil && !s.sound(base, first) {
		return t, &Broken{first.seq + 1, "is not known to be the oldest: the mark of what retention has removed before it has no seal of this installation's"}
	}
	at, err := t.walk(ctx, tx, first)
	switch {
	case err != nil:
		return t, err
	case at.seq < last.seq:
		return t, &Broken{at.seq + 1, "is missing"}
	case !bytes.Equal(at.hash, last.hash):
		return t, &Broken{at.seq, "is not the one that was written last: it, or rows before it, were changed and hashed anew, or the mark of it was changed"}
	case s != nil && !s.sound(head, last):
		return t, &Broken{at.seq, "is not known to be the newest: the mark of it has no seal of this installation's"}
	}
	return t, nil
}

// walk follows the rows from a mark, counts them and returns the last.
func (t *Trail) walk(ctx context.Context, tx *sql.Tx, at mark) (mark, error) {
	rows, err := tx.QueryContext(ctx, selectRows+" ORDER BY seq")
	if err != nil {
		return at, err
	}
	defer rows.Close()
	for rows.Next() {
		r, err := scanRow(rows)
		switch {
		case err != nil:
			return at, fmt.Errorf("event after %d: %w", at.seq, err)
		case r.Seq <= at.seq:
			return at, &Broken{r.Seq, fmt.Sprintf("was inserted: all up to %d were removed by retention", at.seq)}
		case r.Seq > t.Last && at.seq == t.Last:
			return at, &Broken{r.Seq, fmt.Sprintf("was inserted: the newest is %d", t.Last)}
		case r.Seq > at.seq+1:
			return at, &Broken{at.seq + 1, "is missing"}
		case !r.follows(at):
			return at, &Broken{r.Seq, "was changed"}
		}
		at.seq, at.hash = r.Seq, r.Hash
		t.Rows++
	}
	return at, rows.Err()
}
