/* The receive loop of a range: fills a buffer and checksums each piece while the cache holds it, without the GIL.
 *
 * Shared by `_receive.c` (plain sockets) and `_tls.c`, which differ in how one piece is received. Knows no HTTP and no
 * files.
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

/* Bytes. Small enough that a core's second-level cache still holds a piece when it is checksummed, large enough for few
 * system calls. */
#define PIECE (256 * 1024)
/* Bytes of the first piece, and of each while a large one would take longer than MAX_PIECE_S. A piece is received whole:
 * else a connection with less than 128 KB/s would look silent for seconds. */
#define SMALL_PIECE (16 * 1024)
#define MAX_PIECE_S 0.5

/* Receives up to `size` bytes. Returns their count; 0 at the end of the stream; -1 after a failure, with errno set. */
typedef ssize_t (*Receive)(void *source, uint8_t *data, size_t size);

typedef struct {
    size_t count; /* bytes */
    uint64_t crc64, crc32c;
    double receive_s, verify_s, receive_cpu_s;
    ssize_t last_result; /* of the last `Receive` */
    int last_errno;      /* valid if last_result is -1 */
} Filled;

static double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Receives until `size` bytes have come, the stream fails or ends, or `max_s` seconds have passed since the call.
 * The CRCs in `to` are continued. */
static void fill(Filled *to, Receive receive, void *source, uint8_t *data, size_t size, double max_s, int with_crc32c,
                 const CrcUpdates *crc) {
    double cpu = seconds(CLOCK_THREAD_CPUTIME_ID), began = seconds(CLOCK_MONOTONIC), start = began;
    size_t most = SMALL_PIECE;
    while (to->count < size) {
        uint8_t *piece = data + to->count;
        size_t left = size - to->count;
        to->last_result = receive(source, piece, left < most ? left : most);
        to->last_errno = errno;
        if (to->last_result < 0 && to->last_errno == EINTR) continue;
        double received = seconds(CLOCK_MONOTONIC);
        most = (received - start) * PIECE > MAX_PIECE_S * (double)to->last_result ? SMALL_PIECE : PIECE;
        to->receive_s += received - start;
        start = received;
        if (to->last_result <= 0) break;
        to->crc64 = crc->crc64nvme(to->crc64, piece, (size_t)to->last_result);
        if (with_crc32c) to->crc32c = crc->crc32c(to->crc32c, piece, (size_t)to->last_result);
        to->count += (size_t)to->last_result;
        start = seconds(CLOCK_MONOTONIC);
        to->verify_s += start - received;
        if (start - began >= max_s) break;
    }
    to->receive_cpu_s = seconds(CLOCK_THREAD_CPUTIME_ID) - cpu - to->verify_s;
    if (to->receive_cpu_s < 0) to->receive_cpu_s = 0; /* another process had the core while this one checksummed */
}

/* Returns the fields of `receiving.Received` as a plain tuple. */
static PyObject *as_tuple(const Filled *filled) {
    return Py_BuildValue("nKKddd", (Py_ssize_t)filled->count, (unsigned long long)filled->crc64,
                         (unsigned long long)filled->crc32c, filled->receive_s, filled->verify_s,
                         filled->receive_cpu_s);
}
#endif
