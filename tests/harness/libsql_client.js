// libSQL's own client over HTTP, as an application uses it: tables, a batch, transactions, typed values. Arguments: the
// folder that holds the module, the URL, a token. Prints what it has seen as one line of JSON.
'use strict';
const path = require('node:path');
const { createRequire } = require('node:module');
const { createClient } = createRequire(path.join(process.argv[2], 'x.js'))('@libsql/client/http');

const [url, authToken] = process.argv.slice(3);
const seen = {};

async function failing(work) {
  try {
    await work();
  } catch (error) {
    return error.code;
  }
  throw new Error('it must fail');
}

async function main() {
  const client = createClient({ url, authToken, intMode: 'bigint' });
  await client.execute('CREATE TABLE item(id INTEGER PRIMARY KEY, word TEXT NOT NULL UNIQUE, number REAL, data BLOB)');
  const results = await client.batch([
    { sql: 'INSERT INTO item VALUES (?, ?, ?, ?)', args: [1, 'one', 1.5, new Uint8Array([0, 255, 1])] },
    { sql: 'INSERT INTO item VALUES (:id, $word, @number, :data)', args: { id: 2n ** 62n, word: 'ü"\0', number: null, data: null } },
    'SELECT count(*) AS n FROM item',
  ], 'write');
  seen.batch = results.map((result) => result.rowsAffected);
  seen.count = Number(results[2].rows[0].n);
  seen.rowid = String(results[1].lastInsertRowid);
  // All or nothing.
  seen.failed = await failing(() => client.batch(["INSERT INTO item VALUES (3, 'three', 3, NULL)", "INSERT INTO item VALUES (4, 'one', 4, NULL)"], 'write'));
  seen.syntax = await failing(() => client.execute('SELEC 1'));
  const transaction = await client.transaction('write');
  await transaction.execute("INSERT INTO item VALUES (5, 'five', 5, x'')");
  const inside = await transaction.execute('SELECT count(*) AS n FROM item');
  seen.inside = Number(inside.rows[0].n);
  await transaction.commit();
  const undone = await client.transaction('write');
  await undone.execute('DELETE FROM item');
  await undone.rollback();
  const reading = await client.transaction('read');
  seen.reading = Number((await reading.execute('SELECT count(*) AS n FROM item')).rows[0].n);
  seen.readonly = await failing(() => reading.execute('DELETE FROM item'));
  reading.close();
  seen.read_batch = Number((await client.batch(['SELECT count(*) AS n FROM item'], 'read'))[0].rows[0].n);
  await client.executeMultiple("CREATE TABLE other(a); INSERT INTO other VALUES ('x'); INSERT INTO other VALUES ('y');");
  await client.migrate(['PRAGMA foreign_keys = off', 'ALTER TABLE other ADD COLUMN b']);
  const rows = (await client.execute('SELECT * FROM item ORDER BY id')).rows;
  seen.rows = rows.map((row) => [String(row.id), typeof row.id, row.word, row.number, row.data && Array.from(new Uint8Array(row.data))]);
  seen.types = (await client.execute('SELECT * FROM item')).columnTypes;
  client.close();
}

main().then(() => console.log(JSON.stringify(seen)), (error) => {
  console.error(error);
  process.exit(1);
});
