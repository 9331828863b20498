/* Loaded in front of the C library: one call of a process on files below a folder goes wrong.

   fault_watch(root, log): the calls below `root` are written to the file `log`, one a line.
   fault_arm(root, op, glob, nth, what): the nth call `op` on a path that matches goes wrong.
   What goes wrong: an error number, or one of the numbers below. Children inherit it, and it
   happens once among them all. Linux only: paths of open files are read from /proc. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { KILL = 1001, STOP, A_DAY_BACK, A_DAY_ON, FULL };

static char root[PATH_MAX], op_wanted[16], glob_wanted[PATH_MAX];
static int log_file = -1, nth_wanted, what_wanted;
static struct shared { atomic_int seen, is_full, days, is_paused; } none, *shared = &none;

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static struct shared *new_shared(void) {
    return mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

void fault_watch(const char *folder, const char *log) {
    log_file = open(log, O_WRONLY | O_APPEND | O_CREAT, 0600);
    strcpy(root, folder);
}

void fault_arm(const char *folder, const char *op, const char *glob, int nth, int what) {
    shared = new_shared();
    strcpy(op_wanted, op);
    strcpy(glob_wanted, glob);
    nth_wanted = nth, what_wanted = what;
    strcpy(root, folder);
    atomic_store(&shared->is_paused, 1);
}

void fault_go_on(void) { shared->is_paused = 0; }

int fault_happened(void) { return shared->seen >= nth_wanted; }

void fault_disarm(void) {
    munmap(shared, sizeof(struct shared));
    shared = &none;
    nth_wanted = root[0] = 0;
}

/* The path below the root, or NULL. */
static const char *below(const char *path) {
    size_t length = strlen(root);
    if (!length || strncmp(path, root, length)) return NULL;
    return path[length] == '/' ? path + length + 1 : NULL;
}

static const char *of_file(int file, char *path) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return NULL;
    path[length] = 0;
    return below(path);
}

static const char *of_path(int folder, const char *name, char *path) {
    if (name[0] == '/') return below(strcpy(path, name));
    if (folder == AT_FDCWD) {
        if (!getcwd(path, PATH_MAX)) return NULL;
    } else if (!of_file(folder, path)) {
        return NULL;
    }
    strcat(strcat(path, "/"), name);
    return below(path);
}

static int is_writing(const char *op) {
    return !strcmp(op, "write") || !strcmp(op, "create") || !strcmp(op, "mkdir") || !strcmp(op, "link");
}

/* What happens at this call: 0 nothing, an error number, KILL, or FULL: from now on the disk is. */
static int meets(const char *op, const char *path) {
    if (!root[0] || (!path && strcmp(op, "fork"))) return 0;
    path = path ? path : "";
    if (log_file >= 0) {
        char line[PATH_MAX + 20];
        int length = snprintf(line, sizeof line, "%s %s\n", op, path);
        REAL(write);
        real(log_file, line, length);
    }
    if (!nth_wanted || shared->is_paused) return 0;
    if (shared->is_full && is_writing(op)) return ENOSPC;
    if (strcmp(op, op_wanted) || fnmatch(glob_wanted, path, 0)) return 0;
    if (atomic_fetch_add(&shared->seen, 1) + 1 != nth_wanted) return 0;
    if (what_wanted == STOP) kill(0, SIGSTOP);
    if (what_wanted == A_DAY_BACK) shared->days = -1;
    if (what_wanted == A_DAY_ON) shared->days = 1;
    if (what_wanted == ENOSPC) {
        shared->is_full = 1;
        return FULL;
    }
    return what_wanted == KILL || what_wanted < 1000 ? what_wanted : 0;
}

static void die(void) { kill(0, SIGKILL); pause(); }

#define FAILS(op, path, failure)              \
    do {                                      \
        int fault = meets(op, path);          \
        if (fault == KILL) die();             \
        if (fault) { errno = fault == FULL ? ENOSPC : fault; return failure; } \
    } while (0)

static const char *opening(int flags) {
    return flags & (O_CREAT | O_WRONLY | O_RDWR) ? "create" : "open";
}

#define OPEN(name, folder, parameters, ...)                          \
    int name parameters {                                            \
        mode_t mode = 0;                                             \
        char whole[PATH_MAX];                                        \
        if (flags & (O_CREAT | O_TMPFILE)) {                         \
            va_list more;                                            \
            va_start(more, flags);                                   \
            mode = va_arg(more, mode_t);                             \
            va_end(more);                                            \
        }                                                            \
        FAILS(opening(flags), of_path(folder, path, whole), -1);     \
        REAL(name);                                                  \
        return real(__VA_ARGS__, flags, mode);                       \
    }
OPEN(open, AT_FDCWD, (const char *path, int flags, ...), path)
OPEN(open64, AT_FDCWD, (const char *path, int flags, ...), path)
OPEN(openat, folder, (int folder, const char *path, int flags, ...), folder, path)
OPEN(openat64, folder, (int folder, const char *path, int flags, ...), folder, path)

#define FOPEN(name)                                                                    \
    FILE *name(const char *path, const char *mode) {                                   \
        char whole[PATH_MAX];                                                          \
        FAILS(mode[0] == 'r' ? "open" : "create", of_path(AT_FDCWD, path, whole), NULL); \
        REAL(name);                                                                    \
        return real(path, mode);                                                       \
    }
FOPEN(fopen)
FOPEN(fopen64)

/* Half of what is written arrives before the disk is full or the process is killed. */
ssize_t write(int file, const void *from, size_t bytes) {
    char path[PATH_MAX];
    REAL(write);
    int fault = root[0] ? meets("write", of_file(file, path)) : 0;
    if (fault == KILL || (fault == FULL && bytes > 1)) {
        ssize_t half = real(file, from, bytes / 2);
        if (fault == KILL) die();
        return half;
    }
    if (fault) {
        errno = fault == FULL ? ENOSPC : fault;
        return -1;
    }
    return real(file, from, bytes);
}

#define CALL(type, name, op, path, failure, parameters, ...) \
    type name parameters {                                   \
        char whole[PATH_MAX];                                \
        (void)whole;                                         \
        if (root[0]) FAILS(op, path, failure);               \
        REAL(name);                                          \
        return real(__VA_ARGS__);                            \
    }
#define FILE_CALL(type, name, op, parameters, ...) \
    CALL(type, name, op, of_file(file, whole), -1, parameters, __VA_ARGS__)
#define PATH_CALL(name, op, folder, parameters, ...) \
    CALL(int, name, op, of_path(folder, path, whole), -1, parameters, __VA_ARGS__)

FILE_CALL(ssize_t, writev, "write", (int file, const struct iovec *from, int parts), file, from, parts)
FILE_CALL(ssize_t, pwrite, "write", (int file, const void *from, size_t n, off_t at), file, from, n, at)
FILE_CALL(ssize_t, pwrite64, "write", (int file, const void *from, size_t n, off64_t at), file, from, n, at)
FILE_CALL(ssize_t, sendfile, "write", (int file, int from, off_t *at, size_t n), file, from, at, n)
FILE_CALL(ssize_t, copy_file_range, "write",
          (int from, off64_t *at, int file, off64_t *to, size_t n, unsigned flags), from, at, file, to, n, flags)
FILE_CALL(ssize_t, read, "read", (int file, void *to, size_t n), file, to, n)
FILE_CALL(ssize_t, pread, "read", (int file, void *to, size_t n, off_t at), file, to, n, at)
FILE_CALL(ssize_t, pread64, "read", (int file, void *to, size_t n, off64_t at), file, to, n, at)
FILE_CALL(int, fsync, "fsync", (int file), file)
FILE_CALL(int, fdatasync, "fsync", (int file), file)
PATH_CALL(rename, "rename", AT_FDCWD, (const char *from, const char *path), from, path)
PATH_CALL(renameat, "rename", to, (int of, const char *from, int to, const char *path), of, from, to, path)
PATH_CALL(link, "link", AT_FDCWD, (const char *from, const char *path), from, path)
PATH_CALL(unlink, "remove", AT_FDCWD, (const char *path), path)
PATH_CALL(unlinkat, "remove", folder, (int folder, const char *path, int flags), folder, path, flags)
PATH_CALL(rmdir, "remove", AT_FDCWD, (const char *path), path)
PATH_CALL(mkdir, "mkdir", AT_FDCWD, (const char *path, mode_t mode), path, mode)
CALL(pid_t, fork, "fork", NULL, -1, (void), )

static long shift(void) { return 86400L * shared->days; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int failed = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += shift();
    return failed;
}
