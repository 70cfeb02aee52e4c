-- Times are nanoseconds since 1970 in UTC; 0 is none. ended_at is 0 exactly
-- while the sandbox is live: the indexes below rest on it.
CREATE TABLE sandboxes (
	id         TEXT    NOT NULL PRIMARY KEY,
	name       TEXT    NOT NULL,
	owner      TEXT    NOT NULL,
	profile    TEXT    NOT NULL,
	backend    TEXT    NOT NULL,
	state      TEXT    NOT NULL,
	reason     TEXT    NOT NULL,
	handle     TEXT    NOT NULL,
	ip         TEXT    NOT NULL,
	home       TEXT    NOT NULL,
	os         TEXT    NOT NULL,
	created_at INTEGER NOT NULL,
	ready_at   INTEGER NOT NULL,
	ends_at    INTEGER NOT NULL,
	max_end_at INTEGER NOT NULL,
	ended_at   INTEGER NOT NULL,
	cores      INTEGER NOT NULL,
	memory_mb  INTEGER NOT NULL,
	disk_mb    INTEGER NOT NULL,
	network    TEXT    NOT NULL,
	CHECK ((ended_at = 0) = (state NOT IN ('TIMEOUT', 'FAILED', 'DESTROYING', 'DESTROYED')))
) STRICT;

-- One live sandbox a name and owner: what makes a repeated create safe.
CREATE UNIQUE INDEX sandboxes_name ON sandboxes (owner, name) WHERE ended_at = 0 AND name <> '';
CREATE INDEX sandboxes_end ON sandboxes (ends_at) WHERE ended_at = 0;
CREATE INDEX sandboxes_owner ON sandboxes (owner, created_at) WHERE state <> 'DESTROYED';
CREATE INDEX sandboxes_backend ON sandboxes (backend, created_at) WHERE state <> 'DESTROYED';
CREATE INDEX sandboxes_ended ON sandboxes (ended_at) WHERE state = 'DESTROYED';

-- What happened. Only ever appended to; it outlives the sandbox.
CREATE TABLE events (
	seq        INTEGER PRIMARY KEY AUTOINCREMENT,
	time       INTEGER NOT NULL,
	sandbox    TEXT    NOT NULL,
	principal  TEXT    NOT NULL,
	what       TEXT    NOT NULL,
	from_state TEXT    NOT NULL,
	to_state   TEXT    NOT NULL,
	detail     TEXT    NOT NULL,
	duration   INTEGER NOT NULL
) STRICT;
