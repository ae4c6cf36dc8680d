-- A replica: follows the primary of sql/primary.sql in the local file replica.db.
--
--   sqlite3 < replica.sql          in the directory of libreplica.so
--   .read replica.sql              the same, in a shell that stays open

.bail on
.load ./libreplica
.open file:replica.db?vfs=replica&sync_url=http://127.0.0.1:8080/app

-- The first access fetches the whole database; from then on reads need no network.
SELECT count(*) || ' orders, read from the local file' FROM orders;

-- A write commits on the primary, and is in the local file when it returns.
INSERT INTO orders(item, quantity) VALUES ('biscuits', 3);
SELECT group_concat(item, ', ') FROM orders;

-- What others have written since: one transaction of the local file, however many it was on the primary.
SELECT replica_sync();

-- A full read of the local file, compared with what the primary says it holds.
SELECT replica_verify();

.mode line
SELECT * FROM replica_status;
