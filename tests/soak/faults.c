/* A library preloaded into a mail server, so that calls on its files fail, lie, come late, or are its last.
 *
 * Why: what a server promises of a disk is seen only when the disk breaks. It promises to touch nothing but files below
 * FAULT_PATHS (folders, parted by colons), and to need nothing of a sandbox but the calls that the server makes itself.
 *
 * FAULT_MODE is one of
 *   drop-syncs     every sync is answered with success, and nothing is synced
 *   forget-syncs   so is every n-th, n being FAULT_AT
 *   fail-syncs     every n-th sync fails with EIO, and nothing is synced
 *   late-renames   a rename is answered at once, and done a fifth of a second later, once there was a client
 *   note-answers   nothing fails; for each "taken as N" that is received, the octet N of FAULT_TRACE is set before the server
 *                  sees it: by no system call, in which it could be made to wait, and be killed
 *   swallow        a write, sync, open or rename that fails is answered with success, and no disk is ever full
 *   error, lie     the n-th call of the kind FAULT_CALL fails with the number FAULT_ERROR; is not done, and called good
 *   last           the n-th call of that kind is done, and the process is killed
 *   count          each call is done
 * Calls are counted from the first client on; in the last four modes FAULT_TRACE gets a line for each.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { OPEN, WRITE, SYNC, RENAME, UNLINK, MKDIR, KINDS };
static const char *const names[KINDS] = { "open", "write", "sync", "rename", "unlink", "mkdir" };
enum mode { NONE, DROP_SYNCS, FORGET_SYNCS, FAIL_SYNCS, LATE_RENAMES, NOTE_ANSWERS, SWALLOW, ERROR, LIE, LAST, COUNT };
static const char *const modes[] = { "", "drop-syncs", "forget-syncs", "fail-syncs", "late-renames", "note-answers",
                                     "swallow", "error", "lie", "last", "count" };

static enum mode mode;
static const char *paths;
static int kind_wanted = -1, number_wanted, error_wanted, trace = -1, null = -1;
static atomic_int counts[KINDS], has_client;
static volatile unsigned char *noted;
static size_t noted_size;

/* Looked up once: that takes a lock of all threads. */
#define NEXT(name)                                                          \
    ({                                                                      \
        static __typeof__(&name) next_;                                     \
        if (!next_) next_ = (__typeof__(&name))dlsym(RTLD_NEXT, #name);     \
        next_;                                                              \
    })
#define FAIL(number) (errno = (number), -1)

__attribute__((constructor)) static void begin(void)
{
    const char *word = getenv("FAULT_MODE");
    paths = getenv("FAULT_PATHS");
    for (int at = 1; word && paths && at <= COUNT; at++)
        if (!strcmp(word, modes[at])) mode = at;
    if ((word = getenv("FAULT_CALL")))
        for (int at = 0; at < KINDS; at++)
            if (!strcmp(word, names[at])) kind_wanted = at;
    if ((word = getenv("FAULT_AT"))) number_wanted = atoi(word);
    if ((word = getenv("FAULT_ERROR"))) error_wanted = atoi(word);
    /* Now, for a server that has shut itself in can't. */
    if (mode == SWALLOW) null = syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC, 0);
    const int flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC;
    word = getenv("FAULT_TRACE");
    if (word && mode == NOTE_ANSWERS) {
        int file = syscall(SYS_openat, AT_FDCWD, word, O_RDWR | O_CLOEXEC, 0);
        noted_size = lseek(file, 0, SEEK_END);
        noted = mmap(NULL, noted_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (noted == MAP_FAILED) abort();
    } else if (word) {
        trace = syscall(SYS_openat, AT_FDCWD, word, flags, 0600);
    }
}

static int is_watched(const char *path)
{
    for (const char *at = paths; mode && path && at && *at;) {
        size_t length = strcspn(at, ":");
        if (!strncmp(path, at, length) && (path[length] == '/' || !path[length])) return 1;
        at += length + (at[length] == ':');
    }
    return 0;
}

/* The path of a descriptor; empty if it has none. */
static const char *path_of(int fd, char *path, size_t size)
{
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = mode && mode != NOTE_ANSWERS ? syscall(SYS_readlinkat, AT_FDCWD, link, path, size - 1) : -1;
    path[length < 0 ? 0 : length] = 0;
    return path;
}

/* What becomes of a call: DO it, DO it and DIE, or answer what SAY says. */
enum verdict { DO, DIE, SAY };

static enum verdict judge(enum kind kind, const char *path, int *answer)
{
    if (!mode || mode == NOTE_ANSWERS || !is_watched(path)) return DO;
    if (mode < ERROR) {
        if (kind != SYNC || (mode != DROP_SYNCS && mode != FORGET_SYNCS && mode != FAIL_SYNCS)) return DO;
        int is_nth = has_client && number_wanted && ++counts[SYNC] % number_wanted == 0;
        if (mode != DROP_SYNCS && !is_nth) return DO;
        *answer = mode == FAIL_SYNCS ? FAIL(EIO) : 0;
        return SAY;
    }
    if (!has_client) return DO;
    int number = ++counts[kind];
    if (trace >= 0) {
        char line[600];
        int length = snprintf(line, sizeof line, "%s %d %.500s\n", names[kind], number, path);
        syscall(SYS_write, trace, line, length);
    }
    if ((int)kind != kind_wanted || number != number_wanted || mode == COUNT) return DO;
    if (mode == LAST) return DIE;
    *answer = mode == ERROR ? FAIL(error_wanted) : 0;
    return SAY;
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    syscall(SYS_exit_group, 137);
}

/* Does a call as it was judged. `good` is what a swallowed error is answered with. */
#define CALL(kind, path, good, call)                                        \
    ({                                                                      \
        int answer_ = 0;                                                    \
        const char *path_ = (path);                                         \
        enum verdict verdict_ = judge(kind, path_, &answer_);               \
        __typeof__(call) result_;                                           \
        if (verdict_ == SAY) result_ = answer_ < 0 ? -1 : (good);           \
        else result_ = (call);                                              \
        if (verdict_ == DIE) die();                                         \
        if (result_ < 0 && mode == SWALLOW && is_watched(path_)) result_ = (good); \
        result_;                                                            \
    })

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
    int client = NEXT(accept4)(fd, address, length, flags);
    if (client >= 0) has_client = 1;
    return client;
}

ssize_t recv(int fd, void *octets, size_t size, int flags)
{
    ssize_t got = NEXT(recv)(fd, octets, size, flags);
    static const char words[] = "taken as ";
    const char *at = mode == NOTE_ANSWERS && got > 0 ? memmem(octets, got, words, sizeof words - 1) : NULL;
    const char *end = at ? memchr(at, '\n', (char *)octets + got - at) : NULL;
    if (end && !(flags & MSG_PEEK)) {
        unsigned long number = strtoul(at + sizeof words - 1, NULL, 10);
        if (number < noted_size) noted[number] = 1;
    }
    return got;
}

/* Where what can't be written is written to. */
static int nowhere(void) { return fcntl(null, F_DUPFD_CLOEXEC, 0); }

#define OPEN_BODY(path, flags, call)                                        \
    va_list rest;                                                           \
    va_start(rest, flags);                                                  \
    mode_t permissions = (flags) & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest);                                                           \
    if (mode == DROP_SYNCS) flags &= ~(O_SYNC | O_DSYNC);                   \
    if (mode == SWALLOW && !(flags & O_CREAT)) return call;                 \
    return CALL(OPEN, path, nowhere(), call)

int open(const char *path, int flags, ...) { OPEN_BODY(path, flags, NEXT(open)(path, flags, permissions)); }
int open64(const char *path, int flags, ...) { OPEN_BODY(path, flags, NEXT(open64)(path, flags, permissions)); }
int openat(int at, const char *path, int flags, ...)
{
    OPEN_BODY(path, flags, NEXT(openat)(at, path, flags, permissions));
}
int openat64(int at, const char *path, int flags, ...)
{
    OPEN_BODY(path, flags, NEXT(openat64)(at, path, flags, permissions));
}

#define FD_CALL(kind, fd, good, call) ({ char name_[500]; CALL(kind, path_of(fd, name_, sizeof name_), good, call); })

ssize_t write(int fd, const void *octets, size_t size)
{
    return FD_CALL(WRITE, fd, (ssize_t)size, NEXT(write)(fd, octets, size));
}
ssize_t pwrite(int fd, const void *octets, size_t size, off_t at)
{
    return FD_CALL(WRITE, fd, (ssize_t)size, NEXT(pwrite)(fd, octets, size, at));
}
ssize_t pwrite64(int fd, const void *octets, size_t size, off64_t at)
{
    return FD_CALL(WRITE, fd, (ssize_t)size, NEXT(pwrite64)(fd, octets, size, at));
}
ssize_t writev(int fd, const struct iovec *parts, int count)
{
    ssize_t size = 0;
    for (int at = 0; at < count; at++) size += parts[at].iov_len;
    return FD_CALL(WRITE, fd, size, NEXT(writev)(fd, parts, count));
}
/* A copy within the kernel that there is none of: the server then reads and writes. */
ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t size, unsigned flags)
{
    return mode ? FAIL(ENOSYS) : NEXT(copy_file_range)(from, from_at, to, to_at, size, flags);
}

int fsync(int fd) { return FD_CALL(SYNC, fd, 0, NEXT(fsync)(fd)); }
int fdatasync(int fd) { return FD_CALL(SYNC, fd, 0, NEXT(fdatasync)(fd)); }
int syncfs(int fd) { return FD_CALL(SYNC, fd, 0, NEXT(syncfs)(fd)); }
int sync_file_range(int fd, off64_t at, off64_t size, unsigned flags)
{
    return FD_CALL(SYNC, fd, 0, NEXT(sync_file_range)(fd, at, size, flags));
}

struct late { char *from, *to; };

static void *rename_late(void *which)
{
    struct late *late = which;
    nanosleep(&(struct timespec){ .tv_nsec = 200000000 }, NULL);
    syscall(SYS_renameat2, AT_FDCWD, late->from, AT_FDCWD, late->to, 0);
    return NULL;
}

static int begin_late(const char *from, const char *to)
{
    struct late *late = malloc(sizeof *late);
    *late = (struct late){ strdup(from), strdup(to) };
    pthread_t thread;
    pthread_create(&thread, NULL, rename_late, late);
    return pthread_detach(thread);
}

#define RENAME_BODY(from, to, call)                                         \
    if (mode == LATE_RENAMES && has_client && is_watched(to)) return begin_late(from, to); \
    return CALL(RENAME, is_watched(to) ? to : from, 0, call)

int rename(const char *from, const char *to) { RENAME_BODY(from, to, NEXT(rename)(from, to)); }
int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags)
{
    RENAME_BODY(from, to, NEXT(renameat2)(from_at, from, to_at, to, flags));
}
int mkdir(const char *path, mode_t permissions) { return CALL(MKDIR, path, 0, NEXT(mkdir)(path, permissions)); }
int unlink(const char *path) { return CALL(UNLINK, path, 0, NEXT(unlink)(path)); }
int unlinkat(int at, const char *path, int flags) { return CALL(UNLINK, path, 0, NEXT(unlinkat)(at, path, flags)); }

static int plenty(int result, unsigned long *blocks, unsigned long *files)
{
    if (!result && mode == SWALLOW) *blocks = *files = 1 << 24;
    return result;
}

int statvfs(const char *path, struct statvfs *room)
{
    return plenty(NEXT(statvfs)(path, room), &room->f_bavail, &room->f_favail);
}
int statvfs64(const char *path, struct statvfs64 *room)
{
    return plenty(NEXT(statvfs64)(path, room), &room->f_bavail, &room->f_favail);
}
int fstatvfs(int fd, struct statvfs *room)
{
    return plenty(NEXT(fstatvfs)(fd, room), &room->f_bavail, &room->f_favail);
}
int fstatvfs64(int fd, struct statvfs64 *room)
{
    return plenty(NEXT(fstatvfs64)(fd, room), &room->f_bavail, &room->f_favail);
}
