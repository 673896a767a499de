/* Compares the files of a snapshot with what its manifest says of them, by stat alone, on several threads and without the
 * interpreter's lock.
 *
 * Why it exists: a release waits for this look, and a snapshot has 100,000 files and more. In Python each costs 6 µs and the
 * interpreter's lock, which the downloads want, too; here it costs what the kernel takes for the stat, shared by the threads.
 *
 * What it deliberately does not do: decide. It says what it saw; what to make of a changed inode time the caller knows.
 * `snapshots._in_python` gives the same answers where this cannot be built, and the tests hold the two against each other.
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
#include <unistd.h>

/* The layout of a frame: `manifests.py` writes it and explains it. */
#define FRAME_BYTES 12
#define COUNTS_BYTES 8
#define FILES 3
#define ID_BYTES 32
#define BYTES_A_FILE (5 * 8 + ID_BYTES + 1)

#define MOST_THREADS 16
#define MOST_PROBLEMS 100

enum { SOUND, MISSING, CHANGED, MOVED };

typedef struct {
    const uint8_t *payload;
    uint32_t length, crc, count;
    size_t first; /* place of its first file in what was found */
} Frame;

typedef struct {
    const Frame *frames;
    size_t count;
    int data;
    uint8_t *verdicts;
    int64_t *ctimes; /* as they are now, where MOVED */
    uint64_t first;  /* place of its first file in the whole manifest */
    atomic_size_t next;
    atomic_int torn;
    atomic_llong good, moved_bytes;
    atomic_ullong sign;
} Look;

/* Of all inode times that are not the manifest's: what was once found to be in order is known again by it. 64 bits, well mixed
 * (the finalizer of splitmix64, Steele et al., 2014), and a sum, so that it does not matter which thread comes first. */
static uint64_t mixed(uint64_t value) {
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

static const uint8_t *ids_of(const Frame *frame) { return frame->payload + COUNTS_BYTES + 5 * 8 * (size_t)frame->count; }

static const char *paths_of(const Frame *frame) {
    return (const char *)frame->payload + COUNTS_BYTES + BYTES_A_FILE * (size_t)frame->count;
}

/* Length of what comes before the last slash; 0 for a file at the top. */
static size_t folder_length(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) : 0;
}

/* Neighbours in one folder are looked up from it, which spares the walk to it; a lone file is not worth opening one. */
typedef struct {
    int fd;
    const char *path;
    size_t length;
} Folder;

static int is_open(const Folder *folder, const char *path, size_t length) {
    return folder->fd >= 0 && folder->length == length && !memcmp(folder->path, path, length);
}

static void open_folder(Folder *folder, int data, const char *path, size_t length) {
    char name[PATH_MAX];
    if (folder->fd >= 0) close(folder->fd);
    folder->fd = -1;
    if (length >= sizeof name) return;
    memcpy(name, path, length);
    name[length] = 0;
    folder->fd = openat(data, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
    folder->path = path;
    folder->length = length;
}

static int64_t nanoseconds(struct timespec time) { return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec; }

static void look_at(Look *look, const Frame *frame, Folder *folder) {
    const size_t count = frame->count;
    const uint8_t *sizes = frame->payload + COUNTS_BYTES, *mtimes = sizes + 8 * count, *ctimes = mtimes + 8 * count,
                  *inodes = ctimes + 8 * count;
    const char *path = paths_of(frame), *end = (const char *)frame->payload + frame->length;
    size_t length = count ? folder_length(path) : 0;
    long long good = 0, moved_bytes = 0;
    uint64_t sign = 0;
    for (size_t place = 0; place < count; place++) {
        const char *following = path + strlen(path) + 1; /* the last byte of the frame is a NUL: seen to by `parse` */
        size_t following_length = following < end ? folder_length(following) : 0;
        if (place + 1 < count && following >= end) {
            atomic_store(&look->torn, 1);
            return;
        }
        int at = look->data;
        const char *name = path;
        if (length) {
            if (!is_open(folder, path, length) && following_length == length && !memcmp(path, following, length))
                open_folder(folder, look->data, path, length);
            if (is_open(folder, path, length)) at = folder->fd, name = path + length + 1;
        }
        struct stat now;
        uint8_t verdict = SOUND;
        if (fstatat(at, name, &now, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT)) {
            verdict = MISSING;
        } else if ((uint64_t)now.st_size != u64(sizes, place) || (uint64_t)now.st_ino != u64(inodes, place) ||
                   nanoseconds(now.st_mtim) != (int64_t)u64(mtimes, place)) {
            verdict = CHANGED;
        } else if (nanoseconds(now.st_ctim) != (int64_t)u64(ctimes, place)) {
            verdict = MOVED;
            look->ctimes[frame->first + place] = nanoseconds(now.st_ctim);
            sign += mixed(mixed(look->first + frame->first + place + 1) ^ (uint64_t)nanoseconds(now.st_ctim));
            moved_bytes += now.st_size;
        } else {
            good += now.st_size;
        }
        look->verdicts[frame->first + place] = verdict;
        path = following;
        length = following_length;
    }
    atomic_fetch_add(&look->good, good);
    atomic_fetch_add(&look->moved_bytes, moved_bytes);
    atomic_fetch_add(&look->sign, sign);
}

static void *work(void *argument) {
    Look *look = argument;
    Folder folder = {-1, NULL, 0};
    size_t number;
    while ((number = atomic_fetch_add(&look->next, 1)) < look->count && !atomic_load(&look->torn)) {
        const Frame *frame = look->frames + number;
        if (crc_of(frame->payload, frame->length, FILES) != frame->crc)
            atomic_store(&look->torn, 1);
        else
            look_at(look, frame, &folder);
    }
    if (folder.fd >= 0) close(folder.fd);
    return NULL;
}

static void run(Look *look, long threads) {
    pthread_t others[MOST_THREADS];
    long started = 0;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    if ((size_t)threads > look->count) threads = (long)look->count;
    while (started < threads - 1 && !pthread_create(&others[started], NULL, work, look)) started++;
    work(look); /* alone, where no thread can be had */
    for (long i = 0; i < started; i++) pthread_join(others[i], NULL);
}

/* The whole frames of files that the piece begins with; the bytes of them, or -1 for one that cannot be. */
static Py_ssize_t parse(const uint8_t *data, size_t length, Frame *frames, size_t *count, size_t *files) {
    size_t place = 0;
    for (*count = *files = 0; length - place >= FRAME_BYTES && u32(data + place) == FILES; (*count)++) {
        Frame frame = {data + place + FRAME_BYTES, u32(data + place + 4), u32(data + place + 8), 0, *files};
        if (length - place - FRAME_BYTES < frame.length) break;
        if (frame.length < COUNTS_BYTES) return -1;
        frame.count = u32(frame.payload);
        if ((uint64_t)COUNTS_BYTES + (uint64_t)frame.count * BYTES_A_FILE + u32(frame.payload + 4) != frame.length) return -1;
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

static PyObject *told(const Look *look, Py_ssize_t bytes, size_t files, size_t most) {
    PyObject *problems = PyList_New(0), *moved = PyList_New(0);
    size_t harmed = 0, number = 0;
    int failed = !problems || !moved;
    for (const Frame *frame = look->frames; !failed && frame < look->frames + look->count; frame++) {
        const char *path = paths_of(frame);
        const uint8_t *sizes = frame->payload + COUNTS_BYTES, *inodes = sizes + 3 * 8 * (size_t)frame->count;
        for (size_t place = 0; !failed && place < frame->count; place++, path += strlen(path) + 1) {
            int verdict = look->verdicts[frame->first + place];
            if (verdict == MOVED) {
                if (number++ >= most) continue;
                failed = append(moved, Py_BuildValue("y#KLKy", (const char *)ids_of(frame) + ID_BYTES * place,
                                                     (Py_ssize_t)ID_BYTES, (unsigned long long)u64(inodes, place),
                                                     (long long)look->ctimes[frame->first + place],
                                                     (unsigned long long)u64(sizes, place), path));
            } else if (verdict != SOUND && harmed++ < MOST_PROBLEMS) {
                failed = append(problems, Py_BuildValue("yi", path, verdict == MISSING));
            }
        }
    }
    if (failed) {
        Py_XDECREF(problems);
        Py_XDECREF(moved);
        return NULL;
    }
    return Py_BuildValue("nnLnNnLKN", bytes, (Py_ssize_t)files, (long long)look->good, (Py_ssize_t)harmed, problems,
                         (Py_ssize_t)number, (long long)look->moved_bytes, (unsigned long long)look->sign, moved);
}

static PyObject *look_at_piece(PyObject *self, PyObject *args) {
    Py_buffer view;
    int data;
    long threads;
    unsigned long long first;
    Py_ssize_t most;
    size_t files, count;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*ilKn", &view, &data, &threads, &first, &most)) return NULL;
    Py_ssize_t bytes = parse(view.buf, (size_t)view.len, NULL, &count, &files);
    Frame *frames = calloc(count + 1, sizeof *frames);
    Look look = {.frames = frames, .count = count, .data = data, .first = first};
    look.verdicts = calloc(files + 1, sizeof *look.verdicts);
    look.ctimes = calloc(files + 1, sizeof *look.ctimes);
    if (!frames || !look.verdicts || !look.ctimes) {
        PyErr_NoMemory();
    } else {
        if (bytes >= 0) {
            parse(view.buf, (size_t)view.len, frames, &count, &files);
            Py_BEGIN_ALLOW_THREADS
            run(&look, threads);
            Py_END_ALLOW_THREADS
        }
        if (bytes < 0 || look.torn)
            PyErr_SetString(PyExc_ValueError, "bytes of it are missing or wrong");
        else
            result = told(&look, bytes, files, (size_t)most);
    }
    free(frames);
    free(look.verdicts);
    free(look.ctimes);
    PyBuffer_Release(&view);
    return result;
}

static PyMethodDef methods[] = {
    {"look", look_at_piece, METH_VARARGS,
     "look(piece of a manifest, descriptor of the data, threads, files before it, most to list) -> (bytes looked through, files,\n"
     "bytes of the sound ones, number of harmed ones, the first of them as (path, whether missing); of those whose inode time\n"
     "alone differs: number, bytes, their sign, the first of them as (id, inode, inode time, size, path)).\n"
     "It looks at the frames of files that the piece begins with. Raises ValueError for torn ones."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_check", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__check(void) {
    make_table();
    return PyModule_Create(&module);
}
