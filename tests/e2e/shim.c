/* Preloaded into an agent: a disk that answers EIO to writes below incoming/ or to reads of what is cached, and a wall clock
 * that is off by some seconds.
 *
 * Why it exists: no kernel here does either on request. What it does is told by a file that both sides have mapped, so nothing is
 * restarted. Everything else goes to the kernel as it is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static volatile const struct {
    long eio;
    long shift_s;
    long eio_reads;
} *control;

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("SHIM_CONTROL");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *mapped = fd >= 0 ? mmap(NULL, sizeof *control, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (fd >= 0) close(fd);
    if (mapped == MAP_FAILED) abort(); /* a test that believes in a fault that never comes proves nothing */
    control = mapped;
}

static int is_below(int fd, const char *folder) {
    char link[40], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    return strstr(path, folder) != NULL;
}

/* By one of these the scrub reads, past the page cache: which one depends on how Python was built. */
ssize_t preadv64v2(int fd, const struct iovec *pieces, int count, off64_t offset, int flags) {
    if (control && control->eio_reads && (is_below(fd, "/snapshots/") || is_below(fd, "/objects/"))) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_preadv2, fd, pieces, count, (long)offset, 0L, flags);
}

ssize_t preadv2(int fd, const struct iovec *pieces, int count, off_t offset, int flags) {
    return preadv64v2(fd, pieces, count, offset, flags);
}

ssize_t preadv64(int fd, const struct iovec *pieces, int count, off64_t offset) {
    return preadv64v2(fd, pieces, count, offset, 0);
}

ssize_t preadv(int fd, const struct iovec *pieces, int count, off_t offset) { return preadv64v2(fd, pieces, count, offset, 0); }

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    if (control && control->eio && is_below(fd, "/incoming/")) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_pwrite64, fd, data, size, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (!result && clock == CLOCK_REALTIME && control) now->tv_sec += control->shift_s;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec precise;
    int result = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return result;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}
