/* A TLS client connection whose receive loop runs without the interpreter's lock.
 *
 * Why it exists: Python's ssl returns one record (16 KiB) per call and takes the interpreter's lock for each, which
 * limits a process to some 1.3 GB/s however many threads it has. Here one call fills a whole buffer (`_receive.h`), and
 * one system call brings many records instead of two calls for each.
 *
 * What it deliberately does not do: non-blocking I/O, keys with a password, writing anything large. The socket's own
 * timeouts hold (SO_RCVTIMEO, SO_SNDTIMEO). The descriptor belongs to the caller, who closes it after this object.
 */
#include "_receive.h"
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

/* Bytes that one system call may bring, into a filter of its own. SSL_CTX_set_read_ahead would move all bytes that it
 * holds to the front of its buffer at each record, which was a sixth of the CPU. */
#define READ_AHEAD (128 * 1024)
/* Of Python's ssl, for servers that speak TLS 1.2 at most: a module that is missing must not change who is trusted. */
#define CIPHERS_1_2 "@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:DHE+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"
/* AES-128 first: 6 % less of the client's CPU than AES-256, which OpenSSL prefers. */
#define CIPHERS_1_3 "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

typedef struct {
    PyObject_HEAD
    SSL_CTX *ctx;
} Context;

typedef struct {
    PyObject_HEAD
    SSL *ssl;
} Connection;

static PyObject *CertificateError;
static const CrcUpdates *crc;

/* Raises an OSError with OpenSSL's reason, or with errno where the socket failed. Returns NULL.
 * ssl: NULL before there is a connection. doing: the step that failed, for the message. */
static PyObject *failed(SSL *ssl, int result, int saved_errno, const char *doing) {
    int why = ssl ? SSL_get_error(ssl, result) : SSL_ERROR_SSL;
    long verify = ssl ? SSL_get_verify_result(ssl) : X509_V_OK;
    unsigned long code = ERR_peek_last_error();
    if (ssl && verify != X509_V_OK) {
        ERR_clear_error();
        PyErr_SetString(CertificateError, X509_verify_cert_error_string(verify));
        return NULL;
    }
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE || saved_errno == EAGAIN) {
        ERR_clear_error();
        PyErr_SetString(PyExc_TimeoutError, "timed out");
        return NULL;
    }
    if (why == SSL_ERROR_SYSCALL && saved_errno) {
        ERR_clear_error();
        errno = saved_errno;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    const char *reason = code ? ERR_reason_error_string(code) : NULL;
    PyErr_Format(PyExc_OSError, "%s: %s", doing, reason ? reason : "the connection was closed");
    ERR_clear_error();
    return NULL;
}

/* Returns an object of `type` with its fields zeroed. All is built in tp_new: tp_init may be left out, or run twice. */
static void *allocate(PyTypeObject *type) {
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    return allocate(type, 0);
}

/* Answers no password: OpenSSL would ask on the terminal. */
static int no_password(char *buffer, int size, int writing, void *data) { return -1; }

/* Context(cafile, verify_flags, certfile, keyfile): the flags are X509_V_FLAG_*, as Python's ssl.VerifyFlags are. An
 * empty certfile: the client has no certificate. */
static PyObject *context_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    const char *cafile, *certfile, *keyfile;
    unsigned long flags;
    if (!PyArg_ParseTuple(args, "skss", &cafile, &flags, &certfile, &keyfile)) return NULL;
    Context *self = allocate(type);
    if (!self) return NULL;
    self->ctx = SSL_CTX_new(TLS_client_method());
    if (!self->ctx || !SSL_CTX_set_min_proto_version(self->ctx, TLS1_2_VERSION) ||
        !SSL_CTX_set_cipher_list(self->ctx, CIPHERS_1_2) || !SSL_CTX_set_ciphersuites(self->ctx, CIPHERS_1_3) ||
        !X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(self->ctx), flags) ||
        !SSL_CTX_load_verify_locations(self->ctx, cafile, NULL)) {
        failed(NULL, 0, 0, cafile);
        Py_DECREF(self);
        return NULL;
    }
    SSL_CTX_set_default_passwd_cb(self->ctx, no_password);
    if (*certfile && (SSL_CTX_use_certificate_chain_file(self->ctx, certfile) != 1 ||
                      SSL_CTX_use_PrivateKey_file(self->ctx, keyfile, SSL_FILETYPE_PEM) != 1)) {
        failed(NULL, 0, 0, certfile);
        Py_DECREF(self);
        return NULL;
    }
    SSL_CTX_set_verify(self->ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_mode(self->ctx, SSL_MODE_AUTO_RETRY);
    return (PyObject *)self;
}

static void context_dealloc(Context *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    SSL_CTX_free(self->ctx);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyTypeObject *context_type;

/* Connects `ssl` to the descriptor: reads go through a buffer, writes past it. Returns 0 if memory is short. */
static int attach(SSL *ssl, int fd) {
    BIO *buffer = BIO_new(BIO_f_buffer()), *input = BIO_new_socket(fd, BIO_NOCLOSE);
    BIO *output = BIO_new_socket(fd, BIO_NOCLOSE);
    if (!buffer || !input || !output || BIO_set_read_buffer_size(buffer, READ_AHEAD) <= 0) {
        BIO_free(buffer);
        BIO_free(input);
        BIO_free(output);
        return 0;
    }
    SSL_set_bio(ssl, BIO_push(buffer, input), output);
    return 1;
}

/* Tells that a signal (SIGCONT, for example) ended a system call, so that OpenSSL's call is to be made again. */
static int interrupted(SSL *ssl, int result) {
    if (result == 1 || errno != EINTR) return 0;
    int why = SSL_get_error(ssl, result);
    return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE;
}

/* Connection(context, fd, host, is_address) makes the handshake. Raises CertificateError, OSError. */
static PyObject *connection_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *context;
    int fd, is_address, result, saved;
    const char *host;
    if (!PyArg_ParseTuple(args, "O!isp", context_type, &context, &fd, &host, &is_address)) return NULL;
    Connection *self = allocate(type);
    if (!self) return NULL;
    self->ssl = SSL_new(((Context *)context)->ctx);
    if (!self->ssl || !attach(self->ssl, fd)) {
        failed(NULL, 0, 0, "cannot prepare TLS");
        Py_DECREF(self);
        return NULL;
    }
    SSL_set_hostflags(self->ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    result = is_address ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(self->ssl), host)
                        : SSL_set_tlsext_host_name(self->ssl, host) && SSL_set1_host(self->ssl, host);
    if (!result) {
        failed(NULL, 0, 0, "cannot check the host's name");
        Py_DECREF(self);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    do {
        ERR_clear_error();
        errno = 0;
        result = SSL_connect(self->ssl);
    } while (interrupted(self->ssl, result));
    saved = errno;
    Py_END_ALLOW_THREADS
    if (result != 1) {
        failed(self->ssl, result, saved, "handshake");
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void connection_dealloc(Connection *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    SSL_free(self->ssl);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static ssize_t receive(void *source, uint8_t *data, size_t size) {
    size_t count;
    int result;
    do {
        errno = 0;
        result = SSL_read_ex(source, data, size, &count);
    } while (interrupted(source, result));
    if (result == 1) return (ssize_t)count;
    return SSL_get_error(source, result) == SSL_ERROR_ZERO_RETURN ? 0 : -1;
}

/* recv_into(buffer) returns the count of received bytes, at most one record; 0 at the end. */
static PyObject *connection_recv_into(Connection *self, PyObject *args) {
    Py_buffer view;
    ssize_t count;
    int saved;
    if (!PyArg_ParseTuple(args, "w*", &view)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    ERR_clear_error();
    count = receive(self->ssl, view.buf, (size_t)view.len);
    saved = errno;
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&view);
    return count < 0 ? failed(self->ssl, -1, saved, "receive") : PyLong_FromSsize_t(count);
}

static PyObject *connection_receive_into(Connection *self, PyObject *args) {
    Py_buffer view;
    int with_crc32c;
    double max_s;
    unsigned long long crc64, crc32c;
    if (!PyArg_ParseTuple(args, "w*KKpd", &view, &crc64, &crc32c, &with_crc32c, &max_s)) return NULL;
    Filled filled = {.crc64 = crc64, .crc32c = crc32c};
    Py_BEGIN_ALLOW_THREADS
    ERR_clear_error();
    fill(&filled, receive, self->ssl, view.buf, (size_t)view.len, max_s, with_crc32c, crc);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&view);
    if (!filled.count && filled.last_result < 0) return failed(self->ssl, -1, filled.last_errno, "receive");
    if (filled.last_result < 0) ERR_clear_error(); /* the next call meets the failure again */
    return as_tuple(&filled);
}

static PyObject *connection_sendall(Connection *self, PyObject *args) {
    Py_buffer view;
    int result, saved;
    size_t count;
    if (!PyArg_ParseTuple(args, "y*", &view)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    do {
        ERR_clear_error();
        errno = 0;
        result = SSL_write_ex(self->ssl, view.buf, (size_t)view.len, &count);
    } while (interrupted(self->ssl, result));
    saved = errno;
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&view);
    if (result != 1) return failed(self->ssl, result, saved, "send");
    Py_RETURN_NONE;
}

static PyMethodDef connection_methods[] = {
    {"recv_into", (PyCFunction)connection_recv_into, METH_VARARGS, "recv_into(buffer) -> bytes received; 0 at the end"},
    {"receive_into", (PyCFunction)connection_receive_into, METH_VARARGS,
     "receive_into(buffer, crc64nvme, crc32c, with_crc32c, max_s), as in `_receive`"},
    {"sendall", (PyCFunction)connection_sendall, METH_VARARGS, "sendall(data)"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot context_slots[] = {{Py_tp_dealloc, context_dealloc}, {Py_tp_new, context_new}, {0, NULL}};
static PyType_Slot connection_slots[] = {{Py_tp_dealloc, connection_dealloc},
                                         {Py_tp_new, connection_new},
                                         {Py_tp_methods, connection_methods},
                                         {0, NULL}};
static PyType_Spec context_spec = {"_tls.Context", sizeof(Context), 0, Py_TPFLAGS_DEFAULT, context_slots};
static PyType_Spec connection_spec = {"_tls.Connection", sizeof(Connection), 0, Py_TPFLAGS_DEFAULT, connection_slots};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_tls", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__tls(void) {
    crc = PyCapsule_Import(CRC_CAPSULE, 0);
    PyObject *self = crc ? PyModule_Create(&module) : NULL;
    if (!self) return NULL;
    CertificateError = PyErr_NewException("_tls.CertificateError", PyExc_OSError, NULL);
    context_type = (PyTypeObject *)PyType_FromSpec(&context_spec);
    PyObject *connection_type = PyType_FromSpec(&connection_spec);
    if (!CertificateError || !context_type || !connection_type ||
        PyModule_AddObjectRef(self, "CertificateError", CertificateError) ||
        PyModule_AddObjectRef(self, "Context", (PyObject *)context_type) ||
        PyModule_AddObjectRef(self, "Connection", connection_type)) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}
