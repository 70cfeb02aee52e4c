-- The installation whose machines the records are about, by the id that its
-- instance key gives it. One row at most.
CREATE TABLE installation (
	id TEXT NOT NULL PRIMARY KEY
) STRICT;
