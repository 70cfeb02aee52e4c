-- recipe is what a member of a pool was made from, empty for all others; keys is
-- how often a machine was re-keyed.
ALTER TABLE sandboxes ADD COLUMN recipe TEXT NOT NULL DEFAULT '';
ALTER TABLE sandboxes ADD COLUMN keys INTEGER NOT NULL DEFAULT 0;
