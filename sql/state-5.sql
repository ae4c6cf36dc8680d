-- Version 5 of the state store: local changes that are put on top of newer ones of the remote.

-- Replica: a rebase that is about to enter the log: the remote's state that is the base from then on. It counts once the
-- content is the one it leads to; until then, the base as it was. The images of epoch 3 in `dirty` lead from that content
-- back to the new base.
CREATE TABLE rebased (
  one            INTEGER PRIMARY KEY CHECK (one = 1),
  lsn            INTEGER NOT NULL,
  id             BLOB NOT NULL CHECK (length(id) = 16),
  database_size  INTEGER NOT NULL,                         -- of the remote's state, in pages
  content        BLOB NOT NULL CHECK (length(content) = 16),
  local          BLOB NOT NULL CHECK (length(local) = 16)  -- digest of the content it leads to
);

-- Replica: the rows that were in the way of the newest rebase, for replica_conflicts. Keys and rows are JSON.
CREATE TABLE conflicts (
  number    INTEGER PRIMARY KEY,
  tbl_name  TEXT NOT NULL,
  key       TEXT NOT NULL,
  base      TEXT,
  local     TEXT,
  remote    TEXT
);

-- Replica: the highest version of the schema (its cookie) among the local contents that were thrown away; 0 for none.
-- Connections that are open know a schema by that number alone, so that none that follows may have it again.
ALTER TABLE mode ADD COLUMN retired INTEGER NOT NULL DEFAULT 0;

PRAGMA user_version = 5;
