/* A host for the tests: SQLite built with SQLITE_THREADSAFE=0, whose mutexes are nothing. The same protocol as
   host.py, without its loops. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sqlite3.h"

#define SLOTS 16

static struct {
  char name[32];
  sqlite3 *db;
} slots[SLOTS];

static void out_of(const char *what) {
  fprintf(stderr, "out of %s\n", what);
  exit(2);
}

static sqlite3 *find(const char *name) {
  for (int i = 0; i < SLOTS; i++)
    if (slots[i].db && strcmp(slots[i].name, name) == 0) return slots[i].db;
  return NULL;
}

static void put(const char *name, sqlite3 *db) {
  for (int i = 0; i < SLOTS; i++) {
    if (slots[i].db) continue;
    snprintf(slots[i].name, sizeof slots[i].name, "%s", name);
    slots[i].db = db;
    return;
  }
  out_of("slots");
}

static char *decode(const char *hex) {
  size_t length = strlen(hex) / 2;
  char *text = malloc(length + 1);
  if (!text) out_of("memory");
  for (size_t i = 0; i < length; i++) {
    unsigned byte;
    sscanf(hex + 2 * i, "%2x", &byte);
    text[i] = (char)byte;
  }
  text[length] = 0;
  return text;
}

static void say_hex(const char *text) {
  for (; *text; text++) printf("%02x", (unsigned char)*text);
  putchar('\n');
  fflush(stdout);
}

static void failed(sqlite3 *db, const char *message) {
  printf("err %d ", db ? sqlite3_extended_errcode(db) : SQLITE_ERROR);
  say_hex(message);
}

static void open_database(const char *slot, const char *name) {
  sqlite3 *db = NULL;
  int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI;
  if (sqlite3_open_v2(name, &db, flags, NULL) != SQLITE_OK) {
    failed(db, sqlite3_errmsg(db));
    sqlite3_close(db);
    return;
  }
  put(slot, db);
  printf("ok \n");
  fflush(stdout);
}

static void load(const char *library) {
  sqlite3 *db = NULL;
  char *message = NULL;
  sqlite3_open(":memory:", &db);
  sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
  if (sqlite3_load_extension(db, library, NULL, &message) != SQLITE_OK) {
    failed(db, message ? message : "no message");
    return;
  }
  put("memory", db);
  printf("ok \n");
  fflush(stdout);
}

static void run(sqlite3 *db, const char *sql) {
  sqlite3_stmt *statement = NULL;
  if (!db) {
    failed(NULL, "no such connection");
    return;
  }
  sqlite3_str *answer = sqlite3_str_new(NULL);
  int code = sqlite3_prepare_v2(db, sql, -1, &statement, NULL);
  for (int row = 0; code == SQLITE_OK && (code = sqlite3_step(statement)) == SQLITE_ROW; row++) {
    if (row) sqlite3_str_appendchar(answer, 1, '\n');
    for (int i = 0; i < sqlite3_column_count(statement); i++) {
      const char *value = (const char *)sqlite3_column_text(statement, i);
      sqlite3_str_appendf(answer, "%s%s", i ? "|" : "", value ? value : "");
    }
    code = SQLITE_OK;
  }
  if (code == SQLITE_DONE) {
    char *text = sqlite3_str_finish(answer);
    printf("ok ");
    say_hex(text ? text : "");
    sqlite3_free(text);
  } else {
    failed(db, sqlite3_errmsg(db));
    sqlite3_free(sqlite3_str_finish(answer));
  }
  sqlite3_finalize(statement);
}

static void close_slot(const char *name) {
  for (int i = 0; i < SLOTS; i++) {
    if (!slots[i].db || strcmp(slots[i].name, name) != 0) continue;
    if (sqlite3_close(slots[i].db) != SQLITE_OK) {
      failed(slots[i].db, sqlite3_errmsg(slots[i].db));
      return;
    }
    slots[i].db = NULL;
  }
  printf("ok \n");
  fflush(stdout);
}

int main(void) {
  char *line = NULL;
  size_t room = 0;
  if (sqlite3_threadsafe() != 0) return 3;
  while (getline(&line, &room, stdin) > 0) {
    const char *words[3] = {"", "", ""};
    int count = 0;
    for (char *word = strtok(line, " \n"); word && count < 3; word = strtok(NULL, " \n")) words[count++] = word;
    char *first = decode(words[1]), *second = decode(words[2]);
    if (strcmp(words[0], "load") == 0) load(first);
    else if (strcmp(words[0], "open") == 0) open_database(first, second);
    else if (strcmp(words[0], "close") == 0) close_slot(first);
    else if (strcmp(words[0], "sql") == 0) run(find(first), second);
    else if (strcmp(words[0], "version") == 0) {
      printf("ok ");
      say_hex(sqlite3_libversion());
    } else failed(NULL, "unknown command");
    free(first);
    free(second);
  }
  return 0;
}
