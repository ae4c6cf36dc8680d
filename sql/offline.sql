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

SELECT tbl_name, change, new FROM replica_changes;

-- With the network: all of it goes up as one transaction, on top of what others have written meanwhile. A row that both
-- changed is an error here, nothing is lost, and replica_conflicts shows it: replica_rebase('local') or
-- replica_rebase('remote') decides, replica_discard() goes back to what the primary had.
SELECT replica_rebase();

.mode line
SELECT state, position, pending_transactions FROM replica_status;
