/* Ed25519 signatures by OpenSSL, for the tokens of `tokens.py`.
 *
 * Why it exists: the standard library signs with shared keys only, and a key that verifies must not be one that mints.
 * The package `cryptography` would do, at 13 MiB of memory in each agent and a second OpenSSL on the disk.
 *
 * What it deliberately does not do: other algorithms, keys with a password, key generation (`openssl genpkey`), what else
 * a certificate says: of one that holds a public key, the key alone counts.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#define SIGNATURE_BYTES 64

static const char key_name[] = "kube_cache.peers._ed25519.key";

static void release_key(PyObject *capsule) { EVP_PKEY_free(PyCapsule_GetPointer(capsule, key_name)); }

/* Answers no password: OpenSSL would ask on the terminal. */
static int no_password(char *buffer, int size, int writing, void *data) { return -1; }

/* Returns the public key of PEM, also that of a certificate; NULL for anything else. */
static EVP_PKEY *read_public(BIO *input) {
    EVP_PKEY *key = PEM_read_bio_PUBKEY(input, NULL, no_password, NULL);
    if (key || BIO_reset(input) != 1) return key;
    X509 *certificate = PEM_read_bio_X509(input, NULL, no_password, NULL);
    if (certificate) key = X509_get_pubkey(certificate);
    X509_free(certificate);
    return key;
}

/* Returns a capsule over an Ed25519 key from PEM; raises ValueError for anything else. */
static PyObject *load(PyObject *args, int is_private) {
    Py_buffer pem;
    if (!PyArg_ParseTuple(args, "y*", &pem)) return NULL;
    EVP_PKEY *key = NULL;
    BIO *input = pem.len <= INT_MAX ? BIO_new_mem_buf(pem.buf, (int)pem.len) : NULL;
    if (input)
        key = is_private ? PEM_read_bio_PrivateKey(input, NULL, no_password, NULL) : read_public(input);
    BIO_free(input);
    PyBuffer_Release(&pem);
    ERR_clear_error();
    if (!key || EVP_PKEY_id(key) != EVP_PKEY_ED25519) {
        EVP_PKEY_free(key);
        return PyErr_Format(PyExc_ValueError, "no %s Ed25519 key in PEM", is_private ? "private" : "public");
    }
    PyObject *capsule = PyCapsule_New(key, key_name, release_key);
    if (!capsule) EVP_PKEY_free(key);
    return capsule;
}

static PyObject *private_key(PyObject *self, PyObject *args) { return load(args, 1); }
static PyObject *public_key(PyObject *self, PyObject *args) { return load(args, 0); }

static PyObject *sign(PyObject *self, PyObject *args) {
    PyObject *capsule;
    Py_buffer data;
    if (!PyArg_ParseTuple(args, "Oy*", &capsule, &data)) return NULL;
    unsigned char signature[SIGNATURE_BYTES];
    size_t length = sizeof signature;
    EVP_PKEY *key = PyCapsule_GetPointer(capsule, key_name);
    EVP_MD_CTX *context = key ? EVP_MD_CTX_new() : NULL;
    int result = context && EVP_DigestSignInit(context, NULL, NULL, NULL, key) == 1 &&
                 EVP_DigestSign(context, signature, &length, data.buf, (size_t)data.len) == 1;
    EVP_MD_CTX_free(context);
    PyBuffer_Release(&data);
    ERR_clear_error();
    if (PyErr_Occurred()) return NULL;
    if (!result) return PyErr_Format(PyExc_ValueError, "cannot sign: not a private key");
    return PyBytes_FromStringAndSize((const char *)signature, (Py_ssize_t)length);
}

static PyObject *verify(PyObject *self, PyObject *args) {
    PyObject *capsule;
    Py_buffer data, signature;
    if (!PyArg_ParseTuple(args, "Oy*y*", &capsule, &data, &signature)) return NULL;
    EVP_PKEY *key = PyCapsule_GetPointer(capsule, key_name);
    EVP_MD_CTX *context = key ? EVP_MD_CTX_new() : NULL;
    int result = context && EVP_DigestVerifyInit(context, NULL, NULL, NULL, key) == 1 &&
                 EVP_DigestVerify(context, signature.buf, (size_t)signature.len, data.buf, (size_t)data.len) == 1;
    EVP_MD_CTX_free(context);
    PyBuffer_Release(&data);
    PyBuffer_Release(&signature);
    ERR_clear_error();
    if (PyErr_Occurred()) return NULL;
    return PyBool_FromLong(result);
}

static PyMethodDef methods[] = {
    {"private_key", private_key, METH_VARARGS, "private_key(pem) -> key; ValueError"},
    {"public_key", public_key, METH_VARARGS, "public_key(pem, also a certificate) -> key; ValueError"},
    {"sign", sign, METH_VARARGS, "sign(private key, data) -> 64 bytes"},
    {"verify", verify, METH_VARARGS, "verify(public key, data, signature) -> bool"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_ed25519", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__ed25519(void) { return PyModule_Create(&module); }
