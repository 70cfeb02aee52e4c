-- Bearer tokens; of each the SHA-256 of its text and never the text. Those that
-- were revoked stay, so that the events have something to point at. A quota of
-- 0 is the installation's. Times are as in 001.
CREATE TABLE tokens (
	id         TEXT    NOT NULL PRIMARY KEY,
	name       TEXT    NOT NULL,
	hash       BLOB    NOT NULL CHECK (length(hash) = 32),
	scopes     TEXT    NOT NULL,
	sandboxes  INTEGER NOT NULL,
	memory_mb  INTEGER NOT NULL,
	created_at INTEGER NOT NULL,
	expires_at INTEGER NOT NULL,
	used_at    INTEGER NOT NULL,
	revoked_at INTEGER NOT NULL
) STRICT;

CREATE INDEX tokens_name ON tokens (name) WHERE revoked_at = 0;
