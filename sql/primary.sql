-- A primary: serves app.db to replicas.
--
--   sqlite3 < primary.sql          in the directory of libreplica.so; Ctrl-C ends it
--
-- sql/replica.sql is the other side. In a shell that you use yourself leave "wait" out: the function then returns at
-- once, and the database is served for as long as the shell is open.

.bail on
.load ./libreplica
.open file:app.db?vfs=replica

CREATE TABLE IF NOT EXISTS orders(
  id INTEGER PRIMARY KEY,
  item TEXT NOT NULL,
  quantity INTEGER NOT NULL
);
INSERT INTO orders(item, quantity) VALUES ('tea', 2), ('coffee', 1), ('cocoa', 5);

SELECT 'serving ' || count(*) || ' orders at http://127.0.0.1:8080/app' FROM orders;

-- Blocks until replica_stop() is called on another connection of this process, or a SIGINT or SIGTERM arrives.
SELECT replica_serve('127.0.0.1:8080', '{"wait": true}');
