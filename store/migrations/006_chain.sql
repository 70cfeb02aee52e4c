-- Events are a chain: see chain.go, which takes them over from old_events when
-- this has run, and drops that. tool and arguments are of a call.
ALTER TABLE events RENAME TO old_events;
CREATE TABLE events (
	seq        INTEGER NOT NULL PRIMARY KEY,
	time       INTEGER NOT NULL,
	sandbox    TEXT    NOT NULL,
	principal  TEXT    NOT NULL,
	what       TEXT    NOT NULL,
	from_state TEXT    NOT NULL,
	to_state   TEXT    NOT NULL,
	detail     TEXT    NOT NULL,
	duration   INTEGER NOT NULL,
	tool       TEXT    NOT NULL,
	arguments  TEXT    NOT NULL,
	hash       BLOB    NOT NULL
) STRICT;

-- The ends of the chain: 'base' is the row that retention removed last, 'head'
-- the newest. An empty seal is none yet.
CREATE TABLE chain (
	place TEXT    NOT NULL PRIMARY KEY CHECK (place IN ('base', 'head')),
	seq   INTEGER NOT NULL,
	hash  BLOB    NOT NULL,
	seal  BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO chain SELECT 'base', coalesce(min(seq), 1) - 1, zeroblob(32), x'' FROM old_events;
INSERT INTO chain SELECT 'head', seq, hash, seal FROM chain;

CREATE TRIGGER events_stay BEFORE UPDATE ON events BEGIN
	SELECT RAISE(ABORT, 'events are only appended');
END;
CREATE TRIGGER events_last BEFORE DELETE ON events WHEN OLD.seq > (SELECT seq FROM chain WHERE place = 'base') BEGIN
	SELECT RAISE(ABORT, 'events are only removed by retention');
END;
