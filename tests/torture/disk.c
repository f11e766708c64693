/* A disk that fails when it is told to: put before the C library with LD_PRELOAD.
 *
 * GNEXEC_TEST_DISK names a control file. While it is empty, or not there, nothing happens. Else it holds one line:
 *
 *     <operations> <errno> <when> <part of a path>
 *
 * operations: letters of w (write), s (sync), r (rename), t (truncate). when: "before" (the call does nothing and fails)
 * or "after" (it is done, and then says that it failed). Only files whose path holds that part are concerned. Each
 * failure adds a byte to <control file>.hits.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum fate { PASS, BEFORE, AFTER };

struct fault { enum fate fate; int error; };

static struct fault judge(char operation, const char *path)
{
    static const struct fault pass = {PASS, 0};
    const char *control = getenv("GNEXEC_TEST_DISK");
    char line[512] = "", operations[8], when[8], part[256], hits[PATH_MAX];
    int error, saved = errno;
    struct fault found = pass;
    if (control == NULL)
        return pass;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t got = syscall(SYS_read, fd, line, sizeof line - 1);
        syscall(SYS_close, fd);
        if (got > 0 && sscanf(line, "%7s %d %7s %255s", operations, &error, when, part) == 4
            && strchr(operations, operation) != NULL && strstr(path, part) != NULL) {
            found.fate = strcmp(when, "after") == 0 ? AFTER : BEFORE;
            found.error = error;
            snprintf(hits, sizeof hits, "%s.hits", control);
            int out = (int)syscall(SYS_openat, AT_FDCWD, hits, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
            if (out >= 0) {
                syscall(SYS_write, out, &operation, 1);
                syscall(SYS_close, out);
            }
        }
    }
    errno = saved;
    return found;
}

static struct fault judge_file(char operation, int fd)
{
    char link[64], path[PATH_MAX];
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    errno = saved;
    path[length > 0 ? length : 0] = '\0';
    return judge(operation, path);
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (real == NULL) \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define DO(type, fault_, call) \
    struct fault fault = fault_; \
    if (fault.fate == BEFORE) { errno = fault.error; return -1; } \
    type result = call; \
    if (fault.fate == AFTER && result >= 0) { errno = fault.error; return -1; } \
    return result

ssize_t write(int fd, const void *data, size_t size)
{ REAL(write); DO(ssize_t, judge_file('w', fd), real(fd, data, size)); }

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{ REAL(pwrite); DO(ssize_t, judge_file('w', fd), real(fd, data, size, at)); }

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{ REAL(pwrite64); DO(ssize_t, judge_file('w', fd), real(fd, data, size, at)); }

int fsync(int fd)
{ REAL(fsync); DO(int, judge_file('s', fd), real(fd)); }

int fdatasync(int fd)
{ REAL(fdatasync); DO(int, judge_file('s', fd), real(fd)); }

int ftruncate(int fd, off_t size)
{ REAL(ftruncate); DO(int, judge_file('t', fd), real(fd, size)); }

int ftruncate64(int fd, off64_t size)
{ REAL(ftruncate64); DO(int, judge_file('t', fd), real(fd, size)); }

int rename(const char *from, const char *to)
{ REAL(rename); DO(int, judge('r', to), real(from, to)); }
