/* Compares the files of a snapshot with its manifest, by stat alone, on several threads, without Python's lock.
 *
 * A release waits for this check, and a snapshot has 100,000 files and more. In Python each file costs 6 µs and the
 * interpreter's lock, which the downloads want, too; here it costs the kernel's time for the stat, and the threads
 * share it.
 *
 * Does not judge a changed ctime: it reports the file, and its caller asks the index. `check._check_chunk` gives the
 * same answers where this cannot be built; the tests hold the two against each other.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The layout of a frame: `manifests.py` writes it and explains it. */
#define FRAME_BYTES 12
#define COUNTS_BYTES 8
#define FILES 3
#define ID_BYTES 32
#define BYTES_A_FILE (5 * 8 + ID_BYTES + 1)

#define MAX_THREADS 16
#define MAX_PROBLEMS 100

enum { SAME, MISSING, CHANGED, CTIME_CHANGED };

typedef struct {
    const uint8_t *payload;
    uint32_t length, crc, count;
    size_t first; /* place of its first file among the files of the piece */
} Frame;

typedef struct {
    const Frame *frames;
    size_t count;
    int data;
    int openat2; /* whether the kernel has the call */
    uint8_t *verdicts; /* one for each file of the piece */
    int64_t *ctimes;   /* the current ones in nanoseconds, where CTIME_CHANGED */
    uint64_t first;    /* place of the piece's first file in the whole manifest */
    atomic_size_t next;
    atomic_int torn;
    atomic_llong good_bytes, ctime_changed_bytes;
    atomic_ullong fingerprint;
} Check;

/* Mixes the bits of a place or a ctime (finalizer of splitmix64, Steele et al., 2014). The fingerprint of all ctimes
 * that differ from the manifest is the sum of their mixes, so that the order of the threads does not matter. A check
 * that meets the fingerprint of an earlier check knows that its ctimes are the same. */
static uint64_t mix(uint64_t value) {
    value = (value ^ (value >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94D049BB133111EB);
    return value ^ (value >> 31);
}

/* CRC-32 as in zlib, eight bytes a step. */
static uint32_t table[8][256];

static void make_table(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t value = byte;
        for (int bit = 0; bit < 8; bit++) value = (value >> 1) ^ (value & 1 ? UINT32_C(0xEDB88320) : 0);
        table[0][byte] = value;
    }
    for (int step = 1; step < 8; step++)
        for (int byte = 0; byte < 256; byte++)
            table[step][byte] = (table[step - 1][byte] >> 8) ^ table[0][table[step - 1][byte] & 255];
}

static uint32_t crc_of(const uint8_t *data, size_t length, uint32_t crc) {
    crc = ~crc;
    for (; length >= 8; data += 8, length -= 8) {
        uint32_t next = 0;
        for (int i = 0; i < 4; i++) next ^= table[7 - i][((crc >> (8 * i)) ^ data[i]) & 255];
        for (int i = 4; i < 8; i++) next ^= table[7 - i][data[i]];
        crc = next;
    }
    for (; length; data++, length--) crc = (crc >> 8) ^ table[0][(crc ^ *data) & 255];
    return ~crc;
}

static uint32_t u32(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint64_t u64(const uint8_t *column, size_t place) {
    uint64_t value;
    memcpy(&value, column + 8 * place, sizeof value);
    return value;
}

static const uint8_t *ids_of(const Frame *frame) {
    return frame->payload + COUNTS_BYTES + 5 * 8 * (size_t)frame->count;
}

static const char *paths_of(const Frame *frame) {
    return (const char *)frame->payload + COUNTS_BYTES + BYTES_A_FILE * (size_t)frame->count;
}

/* Returns the length of the path's folder; 0 for a file at the top. */
static size_t folder_length(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) : 0;
}

/* The folder of the last files, kept open: its files are looked up from it by name alone, so that no folder on the way
 * to them can be a link. */
typedef struct {
    int fd; /* -1 where there is no such folder, or a link is in its place */
    const char *path;
    size_t length;
} Folder;

/* As `beneath.open_beneath`, which explains it. */
static int open_beneath(int data, char *path, int openat2) {
    const int flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
    if (openat2) {
        const struct {
            uint64_t flags, mode, resolve;
        } how = {(uint64_t)flags, 0, 0x08 | 0x04 | 0x01};
        int tries = 100, fd;
        do fd = (int)syscall(437, data, path, &how, sizeof how);
        while (fd < 0 && (errno == EAGAIN || errno == EINTR) && --tries);
        return fd;
    }
    int fd = data;
    for (char *name = path, *rest = path; fd >= 0 && (name = strtok_r(rest, "/", &rest));) {
        int above = fd;
        fd = strcmp(name, "..") ? openat(above, name, flags | O_NOFOLLOW) : -1;
        if (above != data) close(above);
    }
    return fd;
}

static void open_folder(const Check *check, Folder *folder, const char *path, size_t length) {
    char name[PATH_MAX];
    if (folder->fd >= 0) close(folder->fd);
    folder->fd = -1;
    folder->path = path;
    folder->length = length;
    if (length >= sizeof name) return;
    memcpy(name, path, length);
    name[length] = 0;
    folder->fd = open_beneath(check->data, name, check->openat2);
}

static int64_t nanoseconds(struct timespec time) { return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec; }

static void check_frame(Check *check, const Frame *frame, Folder *folder) {
    const size_t count = frame->count;
    const uint8_t *sizes = frame->payload + COUNTS_BYTES, *mtimes = sizes + 8 * count, *ctimes = mtimes + 8 * count,
                  *inodes = ctimes + 8 * count;
    const char *path = paths_of(frame), *end = (const char *)frame->payload + frame->length;
    long long good = 0, ctime_changed = 0;
    uint64_t fingerprint = 0;
    for (size_t place = 0; place < count; place++) {
        /* `parse` has checked that the last byte of the frame is a NUL. */
        const char *following = path + strlen(path) + 1;
        if (place + 1 < count && following >= end) {
            atomic_store(&check->torn, 1);
            return;
        }
        const size_t length = folder_length(path);
        int at = check->data;
        const char *name = path;
        if (length) {
            if (!folder->path || folder->length != length || memcmp(folder->path, path, length))
                open_folder(check, folder, path, length);
            at = folder->fd, name = path + length + 1;
        }
        struct stat now;
        uint8_t verdict = SAME;
        if (at < 0 || fstatat(at, name, &now, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT)) {
            verdict = MISSING;
        } else if ((uint64_t)now.st_size != u64(sizes, place) || (uint64_t)now.st_ino != u64(inodes, place) ||
                   nanoseconds(now.st_mtim) != (int64_t)u64(mtimes, place)) {
            verdict = CHANGED;
        } else if (nanoseconds(now.st_ctim) != (int64_t)u64(ctimes, place)) {
            verdict = CTIME_CHANGED;
            check->ctimes[frame->first + place] = nanoseconds(now.st_ctim);
            fingerprint += mix(mix(check->first + frame->first + place + 1) ^ (uint64_t)nanoseconds(now.st_ctim));
            ctime_changed += now.st_size;
        } else {
            good += now.st_size;
        }
        check->verdicts[frame->first + place] = verdict;
        path = following;
    }
    atomic_fetch_add(&check->good_bytes, good);
    atomic_fetch_add(&check->ctime_changed_bytes, ctime_changed);
    atomic_fetch_add(&check->fingerprint, fingerprint);
}

static void *work(void *argument) {
    Check *check = argument;
    Folder folder = {-1, NULL, 0};
    size_t number;
    while ((number = atomic_fetch_add(&check->next, 1)) < check->count && !atomic_load(&check->torn)) {
        const Frame *frame = check->frames + number;
        if (crc_of(frame->payload, frame->length, FILES) != frame->crc)
            atomic_store(&check->torn, 1);
        else
            check_frame(check, frame, &folder);
    }
    if (folder.fd >= 0) close(folder.fd);
    return NULL;
}

static void run(Check *check, long threads) {
    pthread_t others[MAX_THREADS];
    long started = 0;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if ((size_t)threads > check->count) threads = (long)check->count;
    while (started < threads - 1 && !pthread_create(&others[started], NULL, work, check)) started++;
    work(check); /* alone, where no thread can be created */
    for (long i = 0; i < started; i++) pthread_join(others[i], NULL);
}

/* Parses the whole files frames at the beginning of the piece. Returns their bytes, or -1 if one contradicts itself. */
static Py_ssize_t parse(const uint8_t *data, size_t length, Frame *frames, size_t *count, size_t *files) {
    size_t place = 0;
    for (*count = *files = 0; length - place >= FRAME_BYTES && u32(data + place) == FILES; (*count)++) {
        Frame frame = {data + place + FRAME_BYTES, u32(data + place + 4), u32(data + place + 8), 0, *files};
        if (length - place - FRAME_BYTES < frame.length) break;
        if (frame.length < COUNTS_BYTES) return -1;
        frame.count = u32(frame.payload);
        uint64_t expected = (uint64_t)COUNTS_BYTES + (uint64_t)frame.count * BYTES_A_FILE + u32(frame.payload + 4);
        if (expected != frame.length) return -1;
        if (frame.count && (!u32(frame.payload + 4) || frame.payload[frame.length - 1])) return -1;
        if (frames) frames[*count] = frame;
        *files += frame.count;
        place += FRAME_BYTES + frame.length;
    }
    return (Py_ssize_t)place;
}

static int append(PyObject *list, PyObject *item) {
    int failed = !item || PyList_Append(list, item);
    Py_XDECREF(item);
    return failed;
}

/* Builds the result of `check_piece`. */
static PyObject *report(const Check *check, Py_ssize_t bytes, size_t files, size_t max_listed) {
    PyObject *problems = PyList_New(0), *ctime_changed = PyList_New(0);
    size_t bad = 0, changed = 0;
    int failed = !problems || !ctime_changed;
    for (const Frame *frame = check->frames; !failed && frame < check->frames + check->count; frame++) {
        const char *path = paths_of(frame);
        const uint8_t *sizes = frame->payload + COUNTS_BYTES, *inodes = sizes + 3 * 8 * (size_t)frame->count;
        for (size_t place = 0; !failed && place < frame->count; place++, path += strlen(path) + 1) {
            int verdict = check->verdicts[frame->first + place];
            if (verdict == CTIME_CHANGED) {
                if (changed++ >= max_listed) continue;
                const char *id = (const char *)ids_of(frame) + ID_BYTES * place;
                failed = append(ctime_changed,
                                Py_BuildValue("y#KLKy", id, (Py_ssize_t)ID_BYTES,
                                              (unsigned long long)u64(inodes, place),
                                              (long long)check->ctimes[frame->first + place],
                                              (unsigned long long)u64(sizes, place), path));
            } else if (verdict != SAME && bad++ < MAX_PROBLEMS) {
                failed = append(problems, Py_BuildValue("yi", path, verdict == MISSING));
            }
        }
    }
    if (failed) {
        Py_XDECREF(problems);
        Py_XDECREF(ctime_changed);
        return NULL;
    }
    return Py_BuildValue("nnLnNnLKN", bytes, (Py_ssize_t)files, (long long)check->good_bytes, (Py_ssize_t)bad, problems,
                         (Py_ssize_t)changed, (long long)check->ctime_changed_bytes,
                         (unsigned long long)check->fingerprint, ctime_changed);
}

static PyObject *check_piece(PyObject *self, PyObject *args) {
    Py_buffer view;
    int data, openat2;
    long threads;
    unsigned long long first;
    Py_ssize_t max_listed;
    size_t files, count;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*iplKn", &view, &data, &openat2, &threads, &first, &max_listed)) return NULL;
    Py_ssize_t bytes = parse(view.buf, (size_t)view.len, NULL, &count, &files);
    Frame *frames = calloc(count + 1, sizeof *frames);
    Check check = {.frames = frames, .count = count, .data = data, .openat2 = openat2, .first = first};
    check.verdicts = calloc(files + 1, sizeof *check.verdicts);
    check.ctimes = calloc(files + 1, sizeof *check.ctimes);
    if (!frames || !check.verdicts || !check.ctimes) {
        PyErr_NoMemory();
    } else {
        if (bytes >= 0) {
            parse(view.buf, (size_t)view.len, frames, &count, &files);
            Py_BEGIN_ALLOW_THREADS
            run(&check, threads);
            Py_END_ALLOW_THREADS
        }
        if (bytes < 0 || check.torn)
            PyErr_SetString(PyExc_ValueError, "bytes of it are missing or wrong");
        else
            result = report(&check, bytes, files, (size_t)max_listed);
    }
    free(frames);
    free(check.verdicts);
    free(check.ctimes);
    PyBuffer_Release(&view);
    return result;
}

static PyMethodDef methods[] = {
    {"check_piece", check_piece, METH_VARARGS,
     "check_piece(piece of a manifest, descriptor of the data folder, whether there is openat2, threads,\n"
     "files before the piece, max_listed) ->\n"
     "(bytes used, files, bytes of good files, number of bad files, the first bad files as (path, whether missing),\n"
     "number of files whose ctime alone differs, their bytes, the fingerprint of their ctimes,\n"
     "the first max_listed of them as (id, inode, ctime in ns, size, path)).\n"
     "Checks the files frames at the beginning of the piece. Raises ValueError for a torn one."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_check", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__check(void) {
    make_table();
    return PyModule_Create(&module);
}
