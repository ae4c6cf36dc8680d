-- Version 3 of the state store.

-- What the file system says of the database file since it held exactly this position, all of its log being in it: as long as
-- that stands and there is no log, nobody has to read the file to know what it holds.
CREATE TABLE fingerprint (
  one       INTEGER PRIMARY KEY CHECK (one = 1),
  lsn       INTEGER NOT NULL,
  id        BLOB NOT NULL CHECK (length(id) = 16),
  file      BLOB NOT NULL CHECK (length(file) = 48)       -- src/database/fingerprint.rs
);

-- Replica: the random id by which a primary tells its followers apart.
CREATE TABLE peer (
  one  INTEGER PRIMARY KEY CHECK (one = 1),
  id   BLOB NOT NULL CHECK (length(id) = 8)
);

-- Never used.
DROP TABLE report;

PRAGMA user_version = 3;
