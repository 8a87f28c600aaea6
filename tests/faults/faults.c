/* libpawl_faults.so, for LD_PRELOAD: counts what a process asks of the file system below one
 * directory, and at call number N kills the process or lets the call fail.
 *
 *   PAWL_FAULTS_BELOW=DIRECTORY   what is counted: calls on paths in it (absolute, no symlink)
 *   PAWL_FAULTS_EXCEPT=DIRECTORY  but not in this one
 *   PAWL_FAULTS_KINDS=…           which calls, separated by commas; see `kinds` (default: those
 * that change something, sync or lock) PAWL_FAULTS_AT=N              from 1; without it nothing
 * happens but counting PAWL_FAULTS_TIMES=N           so many calls from there on (default 1; 0:
 * all) PAWL_FAULTS_DO=…              kill-before, kill-after (SIGKILL); EIO, ENOSPC, EINTR, EMFILE,
 *                                 EACCES (the call is not made); after-EIO (it is made, and says
 *                                 it has failed); short (of a write: half of it)
 *   PAWL_FAULTS_LOG=FILE          a line a call: NUMBER KIND PATH RESULT, the result being "ok" or
 * an error's name
 *
 * Of the process that is started with it, and of none of its children: the variables are taken out
 * of the environment, and a forked child is let alone. Calls go to the kernel directly. Not seen:
 * what libc does inside itself (fopen), and io_uring. Test code; it is never installed. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind {
    K_CREATE,
    K_WRITE,
    K_SYNC,
    K_RENAME,
    K_UNLINK,
    K_MKDIR,
    K_RMDIR,
    K_ALLOCATE,
    K_LINK,
    K_LOCK,
    K_OPEN, /* without O_CREAT; and directories that are listed */
    K_READ,
    K_RANGE, /* sync_file_range: RocksDB asks with it what the kernel has, and believes only ENOSYS
              */
    K_COUNT
};
static const char* const kinds[K_COUNT] = {"create", "write", "sync",     "rename", "unlink",
                                           "mkdir",  "rmdir", "allocate", "link",   "lock",
                                           "open",   "read",  "range"};

enum { PATH_BYTES = 4096 };
enum act { A_NONE, A_KILL_BEFORE, A_KILL_AFTER, A_FAIL, A_FAIL_AFTER, A_SHORT };

static char below[PATH_BYTES];
static char except[PATH_BYTES];
static bool counted[K_COUNT];
static long first;
static long times = 1;
static enum act wanted;
static int code;
static int log_fd = -1;
static pid_t owner;
static atomic_long calls;

static const struct {
    const char* name;
    int code;
} errors[] = {
    {"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EINTR", EINTR}, {"EMFILE", EMFILE}, {"EACCES", EACCES}};

static void take(const char* name, char* target) {
    const char* value = getenv(name);
    if (value != NULL) snprintf(target, PATH_BYTES, "%s", value);
    unsetenv(name);
}

static long number_of(const char* name, long otherwise) {
    char text[PATH_BYTES] = "";
    take(name, text);
    return text[0] == '\0' ? otherwise : strtol(text, NULL, 10);
}

__attribute__((noreturn)) static void refuse(const char* what) {
    fprintf(stderr, "libpawl_faults: %s is not understood\n", what);
    _exit(99);
}

static void read_kinds(char* text) {
    if (text[0] == '\0') {
        for (int i = 0; i < K_OPEN; ++i)
            counted[i] = true;
        return;
    }
    char* rest = NULL;
    for (const char* word = strtok_r(text, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        int i = 0;
        while (i < K_COUNT && strcmp(word, kinds[i]) != 0)
            ++i;
        if (i == K_COUNT) refuse(word);
        counted[i] = true;
    }
}

static void read_action(const char* text) {
    const bool is_after = strncmp(text, "after-", 6) == 0;
    const char* error = is_after ? text + 6 : text;
    if (text[0] == '\0') return;
    if (strcmp(text, "kill-before") == 0) {
        wanted = A_KILL_BEFORE;
    } else if (strcmp(text, "kill-after") == 0) {
        wanted = A_KILL_AFTER;
    } else if (strcmp(text, "short") == 0) {
        wanted = A_SHORT;
    } else {
        for (size_t i = 0; i < sizeof errors / sizeof errors[0]; ++i) {
            if (strcmp(error, errors[i].name) == 0) code = errors[i].code;
        }
        if (code == 0) refuse(text);
        wanted = is_after ? A_FAIL_AFTER : A_FAIL;
    }
}

__attribute__((constructor)) static void begin(void) {
    char text[PATH_BYTES] = "";
    take("PAWL_FAULTS_BELOW", below);
    take("PAWL_FAULTS_EXCEPT", except);
    take("PAWL_FAULTS_KINDS", text);
    read_kinds(text);
    first = number_of("PAWL_FAULTS_AT", 0);
    times = number_of("PAWL_FAULTS_TIMES", 1);
    text[0] = '\0';
    take("PAWL_FAULTS_DO", text);
    read_action(text);
    text[0] = '\0';
    take("PAWL_FAULTS_LOG", text);
    unsetenv("LD_PRELOAD");
    if (text[0] != '\0') {
        log_fd = (int)syscall(SYS_openat, AT_FDCWD, text, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC,
                              0644);
        if (log_fd < 0) refuse(text);
    }
    owner = (pid_t)syscall(SYS_getpid);
}

static bool is_below(const char* path, const char* directory) {
    const size_t length = strlen(directory);
    return length > 0 && strncmp(path, directory, length) == 0 &&
           (path[length] == '\0' || path[length] == '/');
}

/* The path that a descriptor is open at now: of a file in a renamed directory, the new one. */
static bool path_of(int fd, char* path) {
    char link[64];
    if (fd == AT_FDCWD) {
        snprintf(link, sizeof link, "/proc/self/cwd");
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    }
    const long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_BYTES - 1);
    if (length <= 0) return false;
    path[length] = '\0';
    return true;
}

struct call {
    long number; /* 0: not counted */
    enum kind kind;
    enum act act;
    int saved_errno;
    char path[PATH_BYTES];
};

static void note(const struct call* call, const char* result) {
    if (log_fd < 0) return;
    char line[PATH_BYTES + 64];
    const int length = snprintf(line, sizeof line, "%ld %s %s %s\n", call->number,
                                kinds[call->kind], call->path, result);
    syscall(SYS_write, log_fd, line, (size_t)length);
}

__attribute__((noreturn)) static void die(void) {
    syscall(SYS_kill, owner, SIGKILL);
    for (;;)
        syscall(SYS_pause);
}

/* Whether the call is to be made. */
static bool enter(struct call* call, enum kind kind, int fd, const char* name) {
    call->number = 0;
    call->kind = kind;
    call->act = A_NONE;
    call->saved_errno = errno;
    if (below[0] == '\0' || !counted[kind] || (pid_t)syscall(SYS_getpid) != owner) return true;
    if (name != NULL && name[0] == '/') {
        snprintf(call->path, sizeof call->path, "%s", name);
    } else {
        char directory[PATH_BYTES];
        if (!path_of(fd, directory)) {
            errno = call->saved_errno;
            return true;
        }
        snprintf(call->path, sizeof call->path, "%.2000s%s%.2000s", directory, name ? "/" : "",
                 name ? name : "");
    }
    errno = call->saved_errno;
    if (!is_below(call->path, below) || is_below(call->path, except)) return true;
    call->number = atomic_fetch_add(&calls, 1) + 1;
    const bool is_chosen =
        first > 0 && call->number >= first && (times == 0 || call->number < first + times);
    if (!is_chosen) return true;
    call->act = wanted;
    if (wanted == A_KILL_BEFORE) {
        note(call, "killed-before");
        die();
    }
    return wanted != A_FAIL;
}

/* What the caller gets. */
static long leave(struct call* call, bool is_made, long result) {
    if (call->number == 0) return result;
    int error = result < 0 ? errno : 0;
    if (!is_made || call->act == A_FAIL_AFTER) {
        result = -1;
        error = code;
    }
    if (call->act == A_KILL_AFTER) {
        note(call, "killed-after");
        die();
    }
    note(call, error == 0 ? "ok" : strerrorname_np(error));
    errno = error == 0 ? call->saved_errno : error;
    return result;
}

#define FAULTY(kind, fd, name, made)                                              \
    do {                                                                          \
        struct call call;                                                         \
        const bool is_made = enter(&call, (kind), (fd), (name));                  \
        return (typeof(made))leave(&call, is_made, is_made ? (long)(made) : -1L); \
    } while (0)

/* ---- names ---- */

static int open_at(int directory, const char* path, int flags, mode_t mode) {
    struct call call;
    const bool is_made = enter(&call, (flags & O_CREAT) != 0 ? K_CREATE : K_OPEN, directory, path);
    const long result = is_made ? syscall(SYS_openat, directory, path, flags, mode) : -1L;
    const long told = leave(&call, is_made, result);
    if (told < 0 && result >= 0) {
        const int error = errno;
        syscall(SYS_close, result);
        errno = error;
    }
    return (int)told;
}

static mode_t mode_in(int flags, va_list arguments) {
    return (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
}

#define OPEN(name)                                     \
    int name(const char* path, int flags, ...) {       \
        va_list arguments;                             \
        va_start(arguments, flags);                    \
        const mode_t mode = mode_in(flags, arguments); \
        va_end(arguments);                             \
        return open_at(AT_FDCWD, path, flags, mode);   \
    }
OPEN(open)
OPEN(open64)
#define OPENAT(name)                                            \
    int name(int directory, const char* path, int flags, ...) { \
        va_list arguments;                                      \
        va_start(arguments, flags);                             \
        const mode_t mode = mode_in(flags, arguments);          \
        va_end(arguments);                                      \
        return open_at(directory, path, flags, mode);           \
    }
OPENAT(openat)
OPENAT(openat64)
/* What fortified libraries call. */
int __open_2(const char* path, int flags);
int __open_2(const char* path, int flags) {
    return open_at(AT_FDCWD, path, flags, 0);
}
int __open64_2(const char* path, int flags);
int __open64_2(const char* path, int flags) {
    return open_at(AT_FDCWD, path, flags, 0);
}

DIR* opendir(const char* path) {
    const int fd = open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK, 0);
    return fd < 0 ? NULL : fdopendir(fd);
}

int renameat2(int from_directory, const char* from, int to_directory, const char* to,
              unsigned flags) {
    FAULTY(K_RENAME, from_directory, from,
           (int)syscall(SYS_renameat2, from_directory, from, to_directory, to, flags));
}
int renameat(int from_directory, const char* from, int to_directory, const char* to) {
    return renameat2(from_directory, from, to_directory, to, 0);
}
int rename(const char* from, const char* to) {
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}
int unlinkat(int directory, const char* path, int flags) {
    FAULTY((flags & AT_REMOVEDIR) != 0 ? K_RMDIR : K_UNLINK, directory, path,
           (int)syscall(SYS_unlinkat, directory, path, flags));
}
int unlink(const char* path) {
    return unlinkat(AT_FDCWD, path, 0);
}
int rmdir(const char* path) {
    return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}
int mkdirat(int directory, const char* path, mode_t mode) {
    FAULTY(K_MKDIR, directory, path, (int)syscall(SYS_mkdirat, directory, path, mode));
}
int mkdir(const char* path, mode_t mode) {
    return mkdirat(AT_FDCWD, path, mode);
}
int symlinkat(const char* target, int directory, const char* path) {
    FAULTY(K_LINK, directory, path, (int)syscall(SYS_symlinkat, target, directory, path));
}
int symlink(const char* target, const char* path) {
    return symlinkat(target, AT_FDCWD, path);
}
int linkat(int from_directory, const char* from, int to_directory, const char* to, int flags) {
    FAULTY(K_LINK, to_directory, to,
           (int)syscall(SYS_linkat, from_directory, from, to_directory, to, flags));
}
int link(const char* from, const char* to) {
    return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

/* ---- descriptors ---- */

static size_t made_bytes(const struct call* call, size_t bytes) {
    return call->act == A_SHORT && bytes > 1 ? bytes / 2 : bytes;
}

ssize_t write(int fd, const void* bytes, size_t count) {
    struct call call;
    const bool is_made = enter(&call, K_WRITE, fd, NULL);
    return leave(&call, is_made,
                 is_made ? syscall(SYS_write, fd, bytes, made_bytes(&call, count)) : -1L);
}
#define PWRITE(name)                                                                             \
    ssize_t name(int fd, const void* bytes, size_t count, off_t offset) {                        \
        struct call call;                                                                        \
        const bool is_made = enter(&call, K_WRITE, fd, NULL);                                    \
        return leave(                                                                            \
            &call, is_made,                                                                      \
            is_made ? syscall(SYS_pwrite64, fd, bytes, made_bytes(&call, count), offset) : -1L); \
    }
PWRITE(pwrite)
PWRITE(pwrite64)
ssize_t writev(int fd, const struct iovec* parts, int count) {
    FAULTY(K_WRITE, fd, NULL, (ssize_t)syscall(SYS_writev, fd, parts, count));
}
ssize_t read(int fd, void* bytes, size_t count) {
    FAULTY(K_READ, fd, NULL, (ssize_t)syscall(SYS_read, fd, bytes, count));
}
#define PREAD(name)                                                                        \
    ssize_t name(int fd, void* bytes, size_t count, off_t offset) {                        \
        FAULTY(K_READ, fd, NULL, (ssize_t)syscall(SYS_pread64, fd, bytes, count, offset)); \
    }
PREAD(pread)
PREAD(pread64)
int fsync(int fd) {
    FAULTY(K_SYNC, fd, NULL, (int)syscall(SYS_fsync, fd));
}
int fdatasync(int fd) {
    FAULTY(K_SYNC, fd, NULL, (int)syscall(SYS_fdatasync, fd));
}
int sync_file_range(int fd, off64_t offset, off64_t bytes, unsigned flags) {
    FAULTY(K_RANGE, fd, NULL, (int)syscall(SYS_sync_file_range, fd, offset, bytes, flags));
}
#define FALLOCATE(name)                                                                     \
    int name(int fd, int mode, off_t offset, off_t bytes) {                                 \
        FAULTY(K_ALLOCATE, fd, NULL, (int)syscall(SYS_fallocate, fd, mode, offset, bytes)); \
    }
FALLOCATE(fallocate)
FALLOCATE(fallocate64)
#define FTRUNCATE(name)                                                       \
    int name(int fd, off_t bytes) {                                           \
        FAULTY(K_ALLOCATE, fd, NULL, (int)syscall(SYS_ftruncate, fd, bytes)); \
    }
FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)
int flock(int fd, int operation) {
    FAULTY(K_LOCK, fd, NULL, (int)syscall(SYS_flock, fd, operation));
}
static int control(int fd, int command, void* argument) {
    if (command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK ||
        command == F_OFD_SETLKW)
        FAULTY(K_LOCK, fd, NULL, (int)syscall(SYS_fcntl, fd, command, argument));
    return (int)syscall(SYS_fcntl, fd, command, argument);
}
#define FCNTL(name)                                \
    int name(int fd, int command, ...) {           \
        va_list arguments;                         \
        va_start(arguments, command);              \
        void* argument = va_arg(arguments, void*); \
        va_end(arguments);                         \
        return control(fd, command, argument);     \
    }
FCNTL(fcntl)
FCNTL(fcntl64)
