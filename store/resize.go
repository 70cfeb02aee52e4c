package store

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// Resize changes what a sandbox has; see [sessions.Store].
func (db *DB) Resize(ctx context.Context, id string, size sessions.Size, quota sessions.Quota, ch sessions.Change) (sb sessions.Sandbox, err error) {
	err = db.tx(ctx, "resize "+id, func(tx *sql.Tx) error {
		if sb, err = find(ctx, tx, id); err != nil {
			return err
		}
		used, err := usage(ctx, tx, sb.Owner)
		if err != nil {
			return err
		}
		more := cmp.Or(size.MemoryMB, sb.MemoryMB) - sb.MemoryMB
		if more > 0 && over(quota.MemoryMB, used.MemoryMB+more) {
			return sessions.ErrOverQuota
		}
		sb.Cores, sb.MemoryMB, sb.DiskMB = cmp.Or(size.Cores, sb.Cores), cmp.Or(size.MemoryMB, sb.MemoryMB), cmp.Or(size.DiskMB, sb.DiskMB)
		res, err := tx.ExecContext(ctx, "UPDATE sandboxes SET cores = ?, memory_mb = ?, disk_mb = ? WHERE id = ? AND ended_at = 0",
			sb.Cores, sb.MemoryMB, sb.DiskMB, id)
		if err := oneRow(res, err); err != nil {
			return err
		}
		detail := fmt.Sprintf("cpu %d, memory_mb %d, disk_mb %d", sb.Cores, sb.MemoryMB, sb.DiskMB)
		if ch.Reason != "" {
			detail += ": " + ch.Reason
		}
		return db.addEvent(ctx, tx, sessions.Event{At: ch.At, Sandbox: id, Principal: ch.By, What: sessions.EventResize, Detail: detail})
	})
	return sb, err
}
