/* The receive loop of a range: bytes into the buffer, each piece checksummed while it is in the cache, no interpreter's lock.
 *
 * Shared by `_receive.c` (plain sockets) and `_tls.c`; what differs is how a piece is received. Knows no HTTP and no files.
 */
#ifndef KUBE_CACHE_RECEIVE_H
#define KUBE_CACHE_RECEIVE_H
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <errno.h>
#include <stdint.h>
#include <time.h>

#include "../dataset/_crc.h"

/* Small enough to be in a core's second-level cache still when it is checksummed, large enough for few system calls. */
#define PIECE (256 * 1024)

/* Up to `size` bytes; 0 at the end of the stream; -1: failed, errno says how. */
typedef ssize_t (*Receive)(void *from, uint8_t *data, size_t size);

typedef struct {
    size_t count;
    uint64_t crc64, crc32c;
    double waited, checked, worked; /* seconds: receiving; checksumming; CPU of this thread for receiving */
    ssize_t last;                   /* what the last `Receive` answered */
    int error;                      /* errno where that was -1 */
} Filled;

static double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Until `size` bytes have come, the stream fails or ends, or `patience` seconds have passed since the call. */
static void fill(Filled *to, Receive receive, void *from, uint8_t *data, size_t size, double patience, int with_crc32c,
                 const CrcUpdates *crc) {
    double cpu = seconds(CLOCK_THREAD_CPUTIME_ID), began = seconds(CLOCK_MONOTONIC), start = began;
    while (to->count < size) {
        uint8_t *at = data + to->count;
        size_t left = size - to->count;
        to->last = receive(from, at, left < PIECE ? left : PIECE);
        to->error = errno;
        if (to->last < 0 && to->error == EINTR) continue;
        double middle = seconds(CLOCK_MONOTONIC);
        to->waited += middle - start;
        start = middle;
        if (to->last <= 0) break;
        to->crc64 = crc->crc64nvme(to->crc64, at, (size_t)to->last);
        if (with_crc32c) to->crc32c = crc->crc32c(to->crc32c, at, (size_t)to->last);
        to->count += (size_t)to->last;
        start = seconds(CLOCK_MONOTONIC);
        to->checked += start - middle;
        if (start - began >= patience) break;
    }
    to->worked = seconds(CLOCK_THREAD_CPUTIME_ID) - cpu - to->checked;
}

/* (bytes, CRC64NVME, CRC32C, seconds of receiving, of checksumming, CPU seconds of receiving) */
static PyObject *answer(const Filled *filled) {
    return Py_BuildValue("nKKddd", (Py_ssize_t)filled->count, (unsigned long long)filled->crc64,
                         (unsigned long long)filled->crc32c, filled->waited, filled->checked, filled->worked);
}
#endif
