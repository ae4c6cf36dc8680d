-- A replica that is written offline: follows the primary of sql/primary.sql in the local file offline.db.
--
--   sqlite3 < offline.sql          in the directory of libreplica.so

.bail on
.load ./libreplica
.open file:offline.db?vfs=replica&sync_url=http://127.0.0.1:8080/app&offline=1

-- The first access fetches the whole database; from then on neither reads nor writes need the network.
INSERT INTO orders(item, quantity) VALUES ('written on the way', 1);

-- What is here and not on the primary.
SELECT pending_transactions || ' transaction, ' || pending_pages || ' pages' FROM replica_status;

-- With the network: all of it goes up as one transaction. Where the primary has moved on meanwhile this is an error,
-- nothing is lost, and SELECT replica_discard() goes back to what the primary had.
SELECT replica_push();

.mode line
SELECT state, position, pending_transactions FROM replica_status;
