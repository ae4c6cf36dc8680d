-- Version 4 of the state store: replicas that are written offline.

-- Replica: whether commits are made in the local file first. One row, or none: no. Changes only under WAL_WRITE of the
-- database, as everything below.
CREATE TABLE mode (
  one      INTEGER PRIMARY KEY CHECK (one = 1),
  offline  INTEGER NOT NULL CHECK (offline IN (0, 1))
);

-- Replica: the remote's state at the recorded position, while the local content is another one. Without a row the
-- local content is the remote's.
CREATE TABLE base (
  one            INTEGER PRIMARY KEY CHECK (one = 1),
  database_size  INTEGER NOT NULL,                         -- pages
  content        BLOB NOT NULL CHECK (length(content) = 16),
  transactions   INTEGER NOT NULL                          -- made here since
);

-- Replica: pages as they were before their first change here: since the base (epoch 1), and since a push was begun
-- (epoch 2). Pages above the size of the database of that moment have no row. Durable before the change can be seen.
CREATE TABLE dirty (
  place  INTEGER PRIMARY KEY,                              -- epoch * 2^32 + page number
  image  BLOB NOT NULL
);

-- Replica: a push of local changes that was begun, and what it leads to. Its pages are those of epoch 2, and for the
-- rest those of the local file.
CREATE TABLE outgoing (
  one            INTEGER PRIMARY KEY CHECK (one = 1),
  nonce          BLOB NOT NULL CHECK (length(nonce) = 16),
  lsn            INTEGER NOT NULL,                         -- the remote's position it is made for
  id             BLOB NOT NULL CHECK (length(id) = 16),
  database_size  INTEGER NOT NULL,
  content        BLOB NOT NULL CHECK (length(content) = 16),
  transactions   INTEGER NOT NULL                          -- of the base's, those it holds
);

PRAGMA user_version = 4;
