-- When the turn of a sandbox to be made came; 0 is that it has not. It may stand
-- in line for long, so that how old it is says nothing of how long it takes.
ALTER TABLE sandboxes ADD COLUMN begun_at INTEGER NOT NULL DEFAULT 0;
UPDATE sandboxes SET begun_at = created_at WHERE state <> 'REQUESTED';
