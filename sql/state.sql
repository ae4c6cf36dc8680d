-- The state store beside a database: app.db-replica.
PRAGMA application_id = 0x72706c63;  -- 'rplc'

-- What this file is to others: one row, or none while nothing is known.
CREATE TABLE identity (
  one       INTEGER PRIMARY KEY CHECK (one = 1),
  role      TEXT NOT NULL CHECK (role IN ('primary', 'replica')),
  database  BLOB CHECK (length(database) = 16)   -- permanent random id; NULL before the first answer
);

-- Settings remembered for the next open. Secrets are never here.
CREATE TABLE settings (
  name   TEXT PRIMARY KEY,
  value  TEXT NOT NULL
) WITHOUT ROWID;

-- The position of the content, with the state of the wal-index it belongs to.
-- Changes only under WAL_WRITE of the database (on a primary: of the capturing process).
CREATE TABLE position (
  one            INTEGER PRIMARY KEY CHECK (one = 1),
  lsn            INTEGER NOT NULL,
  id             BLOB NOT NULL CHECK (length(id) = 16),
  page_size      INTEGER NOT NULL,
  database_size  INTEGER NOT NULL,                         -- pages
  content        BLOB NOT NULL CHECK (length(content) = 16),
  anchor         BLOB CHECK (length(anchor) = 20)          -- NULL: not verified since installed
);

-- A transaction about to enter the log: durable before its first frame is visible.
CREATE TABLE intent (
  one            INTEGER PRIMARY KEY CHECK (one = 1),
  lsn            INTEGER NOT NULL,
  id             BLOB NOT NULL CHECK (length(id) = 16),
  database_size  INTEGER NOT NULL,
  content        BLOB NOT NULL CHECK (length(content) = 16),
  digest         BLOB NOT NULL CHECK (length(digest) = 16) -- of the transaction's pages
);

-- How far a replica that is being made has come.
CREATE TABLE bootstrap (
  one            INTEGER PRIMARY KEY CHECK (one = 1),
  lsn            INTEGER NOT NULL,                         -- position of the first part
  id             BLOB NOT NULL CHECK (length(id) = 16),
  page_size      INTEGER NOT NULL,
  after          INTEGER NOT NULL                          -- pages up to here are in the spool
);

-- What happened last, for replica_status.
CREATE TABLE report (
  name   TEXT PRIMARY KEY,
  value
) WITHOUT ROWID;

-- Primary: the newest transaction and the hash of every page.
CREATE TABLE pages (
  page  INTEGER PRIMARY KEY,
  lsn   INTEGER NOT NULL,
  hash  BLOB NOT NULL CHECK (length(hash) = 16)
);
CREATE INDEX pages_by_lsn ON pages (lsn);

-- Primary: every position there ever was.
CREATE TABLE history (
  lsn  INTEGER PRIMARY KEY,
  id   BLOB NOT NULL CHECK (length(id) = 16)
);

-- Primary: who may ask. Without any row everybody on this machine may; a withdrawn token keeps its row, so that
-- taking the last one away opens nothing. Ids are not given twice.
CREATE TABLE tokens (
  id       INTEGER PRIMARY KEY AUTOINCREMENT,
  hash     BLOB NOT NULL CHECK (length(hash) = 32),        -- BLAKE3 of the token, which is never here
  scope    TEXT NOT NULL CHECK (scope IN ('read', 'write')),
  expires  INTEGER NOT NULL,                               -- Unix seconds, as the next
  made     INTEGER NOT NULL,
  revoked  INTEGER NOT NULL DEFAULT 0 CHECK (revoked IN (0, 1))
);

PRAGMA user_version = 1;
