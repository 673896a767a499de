/* Receives a whole buffer from a plain socket in one call, by the loop of `_receive.h`.
 *
 * Why it exists: receiving and checksumming slice by slice from Python is a sixth of the engine's CPU, and by the time
 * a whole slice of 1 MiB is checksummed its beginning has left the core's cache.
 *
 * What it deliberately does not do: sending, and timeouts of its own. The socket's SO_RCVTIMEO limits the wait for a
 * piece.
 */
#include "_receive.h"
#include <sys/socket.h>

static const CrcUpdates *crc;

static ssize_t receive(void *source, uint8_t *data, size_t size) {
    return recv(*(int *)source, data, size, MSG_WAITALL);
}

static PyObject *receive_into(PyObject *self, PyObject *args) {
    Py_buffer view;
    int fd, with_crc32c;
    double max_s;
    unsigned long long crc64, crc32c;
    if (!PyArg_ParseTuple(args, "iw*KKpd", &fd, &view, &crc64, &crc32c, &with_crc32c, &max_s)) return NULL;
    Filled filled = {.crc64 = crc64, .crc32c = crc32c};
    Py_BEGIN_ALLOW_THREADS
    fill(&filled, receive, &fd, view.buf, (size_t)view.len, max_s, with_crc32c, crc);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&view);
    if (!filled.count && filled.last_result < 0) {
        errno = filled.last_errno;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return as_tuple(&filled);
}

static PyMethodDef methods[] = {
    {"receive_into", receive_into, METH_VARARGS,
     "receive_into(fd, buffer, crc64nvme, crc32c, with_crc32c, max_s)\n"
     "-> (bytes, crc64nvme, crc32c, seconds receiving, seconds checksumming, CPU seconds receiving); 0 bytes at end"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_receive", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__receive(void) {
    crc = PyCapsule_Import(CRC_CAPSULE, 0);
    return crc ? PyModule_Create(&module) : NULL;
}
