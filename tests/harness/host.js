// A host for the tests: better-sqlite3, which brings its own SQLite and knows no URI file names. The same protocol as
// `host.py`, without its loops. The folder that holds the module is the first argument.
'use strict';
const path = require('node:path');
const readline = require('node:readline');
const Database = require(path.join(process.argv[2], 'node_modules', 'better-sqlite3'));

const connections = new Map();

// The module names extended result codes; the protocol carries numbers. Those that are not here go by the longest name
// that fits.
const codes = {
  SQLITE_ERROR: 1, SQLITE_BUSY: 5, SQLITE_LOCKED: 6, SQLITE_READONLY: 8, SQLITE_IOERR: 10, SQLITE_CORRUPT: 11,
  SQLITE_FULL: 13, SQLITE_CANTOPEN: 14, SQLITE_MISUSE: 21, SQLITE_AUTH: 23, SQLITE_NOTADB: 26,
  SQLITE_BUSY_SNAPSHOT: 517, SQLITE_IOERR_DATA: 8202,
};
const byLength = Object.keys(codes).sort((one, other) => other.length - one.length);
const number = (name) => codes[byLength.find((code) => String(name).startsWith(code))] ?? 1;

const text = (value) => (value === null ? '' : Buffer.isBuffer(value) ? value.toString('hex') : String(value));

const commands = {
  load(library) {
    const connection = new Database(':memory:');
    connection.loadExtension(library);
    connections.set('memory', connection);
  },
  open(slot, name) {
    connections.set(slot, new Database(name));
  },
  close(slot) {
    connections.get(slot).close();
    connections.delete(slot);
  },
  sql(slot, sql) {
    const statement = connections.get(slot).prepare(sql);
    if (!statement.reader) {
      statement.run();
      return '';
    }
    return statement.raw().all().map((row) => row.map(text).join('|')).join('\n');
  },
  version() {
    return connections.get('memory').prepare('SELECT sqlite_version()').pluck().get();
  },
};

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const [name, ...words] = line.split(' ');
  const decoded = words.map((word) => Buffer.from(word, 'hex').toString());
  let reply;
  try {
    reply = 'ok ' + Buffer.from(commands[name](...decoded) ?? '').toString('hex');
  } catch (error) {
    reply = `err ${number(error.code)} ` + Buffer.from(String(error.message)).toString('hex');
  }
  process.stdout.write(reply + '\n');
});
