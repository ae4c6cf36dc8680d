/*
 * Records what a process does to the files below RECORD_DIR, in order, into RECORD_TRACE.
 *
 * Preloaded instead of a wrapping VFS, because a VFS sees neither link, unlink and directory syncs
 * nor what is written beside SQLite; power loss is decided by exactly those.
 *
 * The recorder keeps no table of descriptors: /proc names the file behind each one, which stays
 * right after dup, rename and fork. What it cannot see (shared writable mappings, stdio) shows when
 * the test compares the replayed trace with the directory. `-shm` files are left out, for their
 * content does not outlive the processes.
 *
 * Record: struct record, then name, other name and data, in the machine's byte order.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CREATE = 1, WRITE, RESIZE, GROW, SYNC, SYNC_DIR, LINK, RENAME, UNLINK, MARK, SEND };

struct record {
  uint32_t kind, name, other, data;
  uint64_t inode, offset;
};

#define PATH_ROOM (2 * PATH_MAX + 2)

static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static int trace = -1;

__attribute__((constructor)) static void begin(void) {
  const char *dir = getenv("RECORD_DIR"), *file = getenv("RECORD_TRACE");
  if (!dir || !file || !realpath(dir, root)) return;
  int fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_APPEND | O_CLOEXEC, 0);
  if (fd < 0) return;
  /* A high number, so that the host gets the descriptors it would get without us. */
  trace = fcntl(fd, F_DUPFD_CLOEXEC, 900);
  syscall(SYS_close, fd);
  if (trace >= 0) root_length = strlen(root);
}

/* The lock spans the call and its record: the trace has the order in which things took effect,
 * across threads (mutex) and processes (flock). */
static void lock(void) {
  pthread_mutex_lock(&order);
  while (syscall(SYS_flock, trace, LOCK_EX) != 0 && errno == EINTR) {
  }
}

static void unlock(void) {
  int saved = errno;
  syscall(SYS_flock, trace, LOCK_UN);
  pthread_mutex_unlock(&order);
  errno = saved;
}

static void put(int kind, uint64_t inode, uint64_t offset, const char *name, const char *other,
                const void *data, size_t length) {
  int saved = errno;
  struct record head = {kind, name ? strlen(name) : 0, other ? strlen(other) : 0, length, inode, offset};
  struct iovec parts[4] = {{&head, sizeof head}, {(void *)name, head.name}, {(void *)other, head.other},
                           {(void *)data, length}};
  ssize_t whole = (ssize_t)(sizeof head + head.name + head.other + length);
  /* A trace with a hole would make the test pass for the wrong reason. */
  if (syscall(SYS_writev, trace, parts, 4) != whole) abort();
  errno = saved;
}

/* The part of an absolute path below the recorded directory ("" for itself), or NULL. */
static const char *below(const char *path) {
  if (!root_length || strncmp(path, root, root_length) != 0) return NULL;
  const char *rest = path + root_length;
  if (*rest == '/') rest++;
  else if (*rest) return NULL;
  size_t length = strlen(rest);
  if (length >= 4 && strcmp(rest + length - 4, "-shm") == 0) return NULL;
  return rest;
}

static int link_text(const char *link, char *text) {
  ssize_t n = readlink(link, text, PATH_MAX - 1);
  text[n < 0 ? 0 : n] = 0;
  return n > 0;
}

/* The file behind a descriptor, if recorded. `text` takes PATH_MAX bytes. */
static const char *behind(int fd, char *text, struct stat *st) {
  static const char gone[] = " (deleted)";
  char link[40];
  int saved = errno;
  const char *name = NULL;
  text[0] = 0;
  if (root_length && fd >= 0) {
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (link_text(link, text)) {
      size_t n = strlen(text), g = sizeof gone - 1;
      if (n > g && strcmp(text + n - g, gone) == 0) text[n - g] = 0;
      name = below(text);
      if (name && fstat(fd, st) != 0) name = NULL;
    }
  }
  errno = saved;
  return name;
}

/* The name a path argument denotes, if recorded. `room` takes PATH_ROOM bytes. */
static const char *denotes(int dirfd, const char *path, char *room) {
  char whole[PATH_ROOM], link[40];
  int saved = errno;
  const char *name = NULL;
  if (!root_length || !path || !*path || strlen(path) >= PATH_MAX) return NULL;
  if (*path == '/') {
    strcpy(whole, path);
  } else {
    if (dirfd == AT_FDCWD) strcpy(link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
    link_text(link, whole);
    strcat(whole, "/");
    strcat(whole, path);
  }
  char *slash = strrchr(whole, '/');
  *slash = 0;
  if (realpath(slash == whole ? "/" : whole, room)) {
    strcat(room, "/");
    strcat(room, slash + 1);
    name = below(room);
  }
  errno = saved;
  return name;
}

static int open_at(int dirfd, const char *path, int flags, mode_t mode) {
  if (!root_length || !(flags & (O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY))))
    return (int)syscall(SYS_openat, dirfd, path, flags, mode);
  struct stat before, after;
  char text[PATH_MAX];
  lock();
  int saved = errno;
  int unnamed = (flags & O_TMPFILE) == O_TMPFILE;
  int existed = !unnamed && fstatat(dirfd, path, &before, 0) == 0;
  errno = saved;
  int fd = (int)syscall(SYS_openat, dirfd, path, flags, mode);
  const char *name = fd < 0 ? NULL : behind(fd, text, &after);
  if (name && !existed) put(CREATE, after.st_ino, 0, unnamed ? "" : name, NULL, NULL, 0);
  else if (name && (flags & O_TRUNC)) put(RESIZE, after.st_ino, 0, name, NULL, NULL, 0);
  unlock();
  return fd;
}

#define TAKE_MODE                                                                                  \
  mode_t mode = 0;                                                                                 \
  if (flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) {                                            \
    va_list more;                                                                                  \
    va_start(more, flags);                                                                         \
    mode = va_arg(more, mode_t);                                                                   \
    va_end(more);                                                                                  \
  }

int open(const char *path, int flags, ...) { TAKE_MODE return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { TAKE_MODE return open_at(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { TAKE_MODE return open_at(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { TAKE_MODE return open_at(dir, path, flags, mode); }
int creat(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }
/* Where callers were built with _FORTIFY_SOURCE. */
int __open_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
int __openat_2(int dir, const char *path, int flags) { return open_at(dir, path, flags, 0); }
int __openat64_2(int dir, const char *path, int flags) { return open_at(dir, path, flags, 0); }

/* What leaves on a socket is exposed: recorded before it goes, without the data. */
static int expose(const char *text) {
  if (strncmp(text, "socket:", 7) != 0) return 0;
  lock();
  put(SEND, 0, 0, NULL, NULL, NULL, 0);
  unlock();
  return 1;
}

/* All ways to write; offset -1 means at the descriptor's own. */
static ssize_t write_parts(int fd, const struct iovec *parts, int count, off_t offset) {
  char text[PATH_MAX];
  struct stat st;
  const char *name = behind(fd, text, &st);
  if (!name) expose(text);
  else lock();
  ssize_t n = offset < 0 ? syscall(SYS_writev, fd, parts, count)
                         : syscall(SYS_pwritev, fd, parts, count, (long)offset, 0L);
  if (!name) return n;
  if (n > 0) {
    off_t start = offset < 0 ? lseek(fd, 0, SEEK_CUR) - n : offset;
    if (count == 1) {
      put(WRITE, st.st_ino, start, name, NULL, parts[0].iov_base, n);
    } else {
      char *data = malloc(n);
      size_t done = 0;
      for (int i = 0; i < count && done < (size_t)n; i++) {
        size_t take = parts[i].iov_len < n - done ? parts[i].iov_len : n - done;
        memcpy(data + done, parts[i].iov_base, take);
        done += take;
      }
      put(WRITE, st.st_ino, start, name, NULL, data, n);
      free(data);
    }
  }
  unlock();
  return n;
}

ssize_t write(int fd, const void *data, size_t length) {
  struct iovec part = {(void *)data, length};
  return root_length ? write_parts(fd, &part, 1, -1) : syscall(SYS_write, fd, data, length);
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
  struct iovec part = {(void *)data, length};
  if (offset < 0) return errno = EINVAL, -1;
  return write_parts(fd, &part, 1, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset) { return pwrite(fd, data, length, offset); }
ssize_t writev(int fd, const struct iovec *parts, int count) { return write_parts(fd, parts, count, -1); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
  if (offset < 0) return errno = EINVAL, -1;
  return write_parts(fd, parts, count, offset);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset) { return pwritev(fd, parts, count, offset); }

ssize_t sendto(int fd, const void *data, size_t length, int flags, const struct sockaddr *to, socklen_t size) {
  if (root_length) expose("socket:");
  return syscall(SYS_sendto, fd, data, length, flags, to, size);
}
ssize_t send(int fd, const void *data, size_t length, int flags) { return sendto(fd, data, length, flags, NULL, 0); }
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  if (root_length) expose("socket:");
  return syscall(SYS_sendmsg, fd, message, flags);
}

static int resize(int fd, off_t size, const char *path) {
  char text[PATH_MAX];
  struct stat st;
  const char *name = NULL;
  if (root_length) lock();
  int result = path ? (int)syscall(SYS_truncate, path, size) : (int)syscall(SYS_ftruncate, fd, size);
  if (path) {
    int seen = result == 0 && root_length ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0) : -1;
    /* Closing would drop the process's POSIX locks on the file; truncate by path is rare enough
     * that keeping the descriptor costs nothing. */
    if (seen >= 0) name = behind(seen, text, &st);
  } else if (result == 0) {
    name = behind(fd, text, &st);
  }
  if (name) put(RESIZE, st.st_ino, size, name, NULL, NULL, 0);
  if (root_length) unlock();
  return result;
}
int ftruncate(int fd, off_t size) { return resize(fd, size, NULL); }
int ftruncate64(int fd, off_t size) { return resize(fd, size, NULL); }
int truncate(const char *path, off_t size) { return resize(-1, size, path); }
int truncate64(const char *path, off_t size) { return resize(-1, size, path); }

int fallocate(int fd, int mode, off_t offset, off_t length) {
  char text[PATH_MAX];
  struct stat st;
  const char *name = behind(fd, text, &st);
  /* Punching, zeroing, collapsing: nobody uses them here, and the trace has no word for them. */
  if (name && mode != 0) return errno = EOPNOTSUPP, -1;
  if (name) lock();
  int result = (int)syscall(SYS_fallocate, fd, mode, offset, length);
  if (name && result == 0) put(GROW, st.st_ino, offset + length, name, NULL, NULL, 0);
  if (name) unlock();
  return result;
}
int fallocate64(int fd, int mode, off_t offset, off_t length) { return fallocate(fd, mode, offset, length); }
int posix_fallocate(int fd, off_t offset, off_t length) {
  int saved = errno;
  int result = fallocate(fd, 0, offset, length) == 0 ? 0 : errno;
  errno = saved;
  return result;
}
int posix_fallocate64(int fd, off_t offset, off_t length) { return posix_fallocate(fd, offset, length); }

static int sync_file(int fd, long call) {
  char text[PATH_MAX];
  struct stat st;
  const char *name = behind(fd, text, &st);
  if (!name) return (int)syscall(call, fd);
  lock();
  /* On a failure the kernel may have dropped the pages: only a success counts. */
  int result = (int)syscall(call, fd);
  if (result == 0) put(S_ISDIR(st.st_mode) ? SYNC_DIR : SYNC, st.st_ino, 0, name, NULL, NULL, 0);
  unlock();
  return result;
}
int fsync(int fd) { return sync_file(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_file(fd, SYS_fdatasync); }

int linkat(int from, const char *old, int to, const char *new, int flags) {
  char room[PATH_ROOM];
  struct stat st;
  if (!root_length) return (int)syscall(SYS_linkat, from, old, to, new, flags);
  lock();
  int result = (int)syscall(SYS_linkat, from, old, to, new, flags);
  const char *name = result == 0 ? denotes(to, new, room) : NULL;
  if (name && fstatat(to, new, &st, AT_SYMLINK_NOFOLLOW) == 0) put(LINK, st.st_ino, 0, name, NULL, NULL, 0);
  unlock();
  return result;
}
int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }

int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
  char room[PATH_ROOM], other_room[PATH_ROOM];
  if (!root_length) return (int)syscall(SYS_renameat2, from, old, to, new, flags);
  lock();
  const char *name = denotes(from, old, room), *other = denotes(to, new, other_room);
  int result = (int)syscall(SYS_renameat2, from, old, to, new, flags);
  if (result == 0 && name && other) put(RENAME, 0, 0, name, other, NULL, 0);
  else if (result == 0 && name) put(UNLINK, 0, 0, name, NULL, NULL, 0);
  unlock();
  return result;
}
int renameat(int from, const char *old, int to, const char *new) { return renameat2(from, old, to, new, 0); }
int rename(const char *old, const char *new) { return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0); }

int unlinkat(int dir, const char *path, int flags) {
  char room[PATH_ROOM];
  if (!root_length || flags) return (int)syscall(SYS_unlinkat, dir, path, flags);
  lock();
  const char *name = denotes(dir, path, room);
  int result = (int)syscall(SYS_unlinkat, dir, path, flags);
  if (result == 0 && name) put(UNLINK, 0, 0, name, NULL, NULL, 0);
  unlock();
  return result;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int remove(const char *path) {
  int saved = errno;
  if (unlink(path) == 0) return 0;
  if (errno != EISDIR) return -1;
  errno = saved;
  return (int)syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
}
