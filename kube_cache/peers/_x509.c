/* Certificates of nodes by OpenSSL, for `authority.py` and `enrolment.py`.
 *
 * Why it exists: the standard library reads certificates and makes none. The package `cryptography` would, at 11 MiB of
 * memory in each agent and a second OpenSSL on the disk; an image without a shell has no command `openssl`.
 *
 * What it deliberately does not do: keys of other kinds than Ed25519, keys with a password, authorities below others,
 * certificates with more than one name, lists of revoked ones. Nothing of a request is taken but its public key.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <limits.h>
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#define SERIAL_BITS 159 /* positive, and 20 bytes at most (RFC 5280) */

/* Answers no password: OpenSSL would ask on the terminal. */
static int no_password(char *buffer, int size, int writing, void *data) { return -1; }

static BIO *over(const Py_buffer *pem) {
    return pem->len <= INT_MAX ? BIO_new_mem_buf(pem->buf, (int)pem->len) : NULL;
}

static PyObject *fail(const char *reason) {
    ERR_clear_error();
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, reason);
    return NULL;
}

/* Returns what was written to a BIO, as bytes. */
static PyObject *written(BIO *output) {
    char *data = NULL;
    long length = BIO_get_mem_data(output, &data);
    return PyBytes_FromStringAndSize(data, length);
}

/* request() -> (key, request): a new key and the request for a certificate of it, both in PEM. */
static PyObject *request(PyObject *self, PyObject *none) {
    PyObject *result = NULL, *key_pem = NULL, *request_pem = NULL;
    EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    X509_REQ *made = X509_REQ_new();
    BIO *key_out = BIO_new(BIO_s_secmem()), *request_out = BIO_new(BIO_s_mem());
    if (!key || !made || !key_out || !request_out || X509_REQ_set_version(made, X509_REQ_VERSION_1) != 1 ||
        X509_REQ_set_pubkey(made, key) != 1 || X509_REQ_sign(made, key, NULL) <= 0 ||
        PEM_write_bio_PKCS8PrivateKey(key_out, key, NULL, NULL, 0, NULL, NULL) != 1 ||
        PEM_write_bio_X509_REQ(request_out, made) != 1) {
        fail("OpenSSL cannot make an Ed25519 key");
        goto end;
    }
    key_pem = written(key_out);
    request_pem = written(request_out);
    if (key_pem && request_pem) result = PyTuple_Pack(2, key_pem, request_pem);
end:
    Py_XDECREF(key_pem);
    Py_XDECREF(request_pem);
    BIO_free(key_out);
    BIO_free(request_out);
    X509_REQ_free(made);
    EVP_PKEY_free(key);
    return result;
}

static int add(X509 *certificate, X509V3_CTX *context, int kind, const char *value) {
    X509_EXTENSION *extension = X509V3_EXT_nconf_nid(NULL, context, kind, value);
    int done = extension && X509_add_ext(certificate, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return done;
}

/* Adds the only name, critical as it must be where the subject is empty. Not by OpenSSL's little language of values, in
 * which a comma begins another name. */
static int add_name(X509 *certificate, const char *name) {
    int done = 0;
    GENERAL_NAMES *all = sk_GENERAL_NAME_new_null();
    GENERAL_NAME *one = GENERAL_NAME_new();
    ASN1_IA5STRING *text = ASN1_IA5STRING_new();
    if (all && one && text && ASN1_STRING_set(text, name, -1) == 1) {
        GENERAL_NAME_set0_value(one, GEN_DNS, text);
        text = NULL;
        if (sk_GENERAL_NAME_push(all, one) > 0) {
            one = NULL;
            done = X509_add1_ext_i2d(certificate, NID_subject_alt_name, all, 1, X509V3_ADD_DEFAULT) == 1;
        }
    }
    ASN1_IA5STRING_free(text);
    GENERAL_NAME_free(one);
    GENERAL_NAMES_free(all);
    return done;
}

static int add_serial(X509 *certificate) {
    BIGNUM *number = BN_new();
    int done = number && BN_rand(number, SERIAL_BITS, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) == 1 &&
               BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate));
    BN_free(number);
    return done;
}

/* Sets from when to when the certificate is good, not longer than its authority's; returns the seconds from now on. */
static long set_times(X509 *certificate, const X509 *authority, long life_s, long skew_s) {
    int days = 0, seconds = 0;
    const ASN1_TIME *end = X509_get0_notAfter(authority);
    if (!ASN1_TIME_diff(&days, &seconds, NULL, end)) return -1;
    long left = days * 86400L + seconds;
    if (left <= 0) return 0;
    int done = X509_gmtime_adj(X509_getm_notBefore(certificate), -skew_s) &&
               (left < life_s ? X509_set1_notAfter(certificate, end)
                              : X509_gmtime_adj(X509_getm_notAfter(certificate), life_s) != NULL);
    return done ? (left < life_s ? left : life_s) : -1;
}

static int has_kind(EVP_PKEY *key) { return key && EVP_PKEY_id(key) == EVP_PKEY_ED25519; }

/* issue(authority, key, request, name, purposes, life_s, skew_s) -> (certificate, seconds that it is good for). */
static PyObject *issue(PyObject *self, PyObject *args) {
    Py_buffer authority_pem, key_pem, request_pem;
    const char *name, *purposes;
    long life_s, skew_s, good_s;
    if (!PyArg_ParseTuple(args, "y*y*y*ssll", &authority_pem, &key_pem, &request_pem, &name, &purposes, &life_s, &skew_s))
        return NULL;
    PyObject *result = NULL, *pem = NULL;
    BIO *authority_in = over(&authority_pem), *key_in = over(&key_pem), *request_in = over(&request_pem);
    BIO *output = BIO_new(BIO_s_mem());
    X509 *authority = authority_in ? PEM_read_bio_X509(authority_in, NULL, no_password, NULL) : NULL;
    EVP_PKEY *key = key_in ? PEM_read_bio_PrivateKey(key_in, NULL, no_password, NULL) : NULL;
    X509_REQ *asked = request_in ? PEM_read_bio_X509_REQ(request_in, NULL, no_password, NULL) : NULL;
    EVP_PKEY *public_key = asked ? X509_REQ_get0_pubkey(asked) : NULL;
    X509 *made = X509_new();
    X509V3_CTX context;
    if (!authority || X509_check_ca(authority) < 1) {
        fail("the authority's certificate is none of an authority, in PEM");
    } else if (!has_kind(key)) {
        fail("the authority's key is no private Ed25519 key in PEM");
    } else if (X509_check_private_key(authority, key) != 1) {
        fail("the authority's key does not belong to its certificate");
    } else if (!has_kind(public_key) || X509_REQ_verify(asked, public_key) != 1) {
        fail("this is no request of an Ed25519 key, in PEM, signed with that key");
    } else if (!made || !output || X509_set_version(made, X509_VERSION_3) != 1 || !add_serial(made) ||
               X509_set_issuer_name(made, X509_get_subject_name(authority)) != 1 ||
               X509_set_pubkey(made, public_key) != 1 || (good_s = set_times(made, authority, life_s, skew_s)) < 0) {
        fail("OpenSSL cannot make a certificate");
    } else if (!good_s) {
        fail("the authority's certificate has expired");
    } else {
        X509V3_set_ctx(&context, authority, made, NULL, NULL, 0);
        if (add(made, &context, NID_basic_constraints, "critical,CA:FALSE") &&
            add(made, &context, NID_key_usage, "critical,digitalSignature") &&
            add(made, &context, NID_ext_key_usage, purposes) && add_name(made, name) &&
            add(made, &context, NID_subject_key_identifier, "hash") &&
            /* An authority without an identifier of its key is known by its name alone. */
            (!X509_get0_subject_key_id(authority) || add(made, &context, NID_authority_key_identifier, "keyid")) &&
            X509_sign(made, key, NULL) > 0 &&
            PEM_write_bio_X509(output, made) == 1 && (pem = written(output)))
            result = Py_BuildValue("Ol", pem, good_s);
        else
            fail("OpenSSL cannot make a certificate");
    }
    Py_XDECREF(pem);
    X509_free(made);
    X509_REQ_free(asked);
    EVP_PKEY_free(key);
    X509_free(authority);
    BIO_free(output);
    BIO_free(request_in);
    BIO_free(key_in);
    BIO_free(authority_in);
    PyBuffer_Release(&request_pem);
    PyBuffer_Release(&key_pem);
    PyBuffer_Release(&authority_pem);
    ERR_clear_error();
    return result;
}

/* authority(name, life_s, skew_s) -> (key, certificate): a new authority whose certificate it signs itself, in PEM. */
static PyObject *authority(PyObject *self, PyObject *args) {
    const char *name;
    long life_s, skew_s;
    if (!PyArg_ParseTuple(args, "sll", &name, &life_s, &skew_s)) return NULL;
    PyObject *result = NULL, *key_pem = NULL, *pem = NULL;
    EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    X509 *made = X509_new();
    BIO *key_out = BIO_new(BIO_s_secmem()), *output = BIO_new(BIO_s_mem());
    X509V3_CTX context;
    if (key && made && key_out && output && X509_set_version(made, X509_VERSION_3) == 1 && add_serial(made) &&
        X509_NAME_add_entry_by_NID(X509_get_subject_name(made), NID_commonName, MBSTRING_UTF8,
                                   (const unsigned char *)name, -1, -1, 0) == 1 &&
        X509_set_issuer_name(made, X509_get_subject_name(made)) == 1 && X509_set_pubkey(made, key) == 1 &&
        X509_gmtime_adj(X509_getm_notBefore(made), -skew_s) && X509_gmtime_adj(X509_getm_notAfter(made), life_s)) {
        X509V3_set_ctx(&context, made, made, NULL, NULL, 0);
        if (add(made, &context, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
            add(made, &context, NID_key_usage, "critical,keyCertSign") &&
            add(made, &context, NID_subject_key_identifier, "hash") && X509_sign(made, key, NULL) > 0 &&
            PEM_write_bio_PKCS8PrivateKey(key_out, key, NULL, NULL, 0, NULL, NULL) == 1 &&
            PEM_write_bio_X509(output, made) == 1 && (key_pem = written(key_out)) && (pem = written(output)))
            result = PyTuple_Pack(2, key_pem, pem);
    }
    if (!result) fail("OpenSSL cannot make an authority");
    Py_XDECREF(key_pem);
    Py_XDECREF(pem);
    BIO_free(output);
    BIO_free(key_out);
    X509_free(made);
    EVP_PKEY_free(key);
    ERR_clear_error();
    return result;
}

static PyMethodDef methods[] = {
    {"authority", authority, METH_VARARGS,
     "authority(name, life in s, skew in s) -> (key, certificate), both in PEM, of an authority; ValueError"},
    {"request", request, METH_NOARGS, "request() -> (key, request), both in PEM"},
    {"issue", issue, METH_VARARGS,
     "issue(authority, its key, request, name, purposes, life in s, skew in s) -> (certificate in PEM, seconds that it is"
     " good for from now on); ValueError"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_x509", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__x509(void) { return PyModule_Create(&module); }
