-- Version 2 of the state store: what was added to state.sql.

-- Primary: transactions that comparing all pages made, because the log that would have told more was gone.
-- Whether a push on the position before is part of one can no longer be known.
CREATE TABLE gaps (
  lsn  INTEGER PRIMARY KEY
);

PRAGMA user_version = 2;
