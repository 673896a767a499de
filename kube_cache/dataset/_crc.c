/* CRC64NVME and CRC32C at memory speed without the interpreter's lock, and the CRC of two pieces from their CRCs.
 *
 * Why this module exists: each byte that is fetched is checksummed once, by up to one thread a connection, so a
 * checksum must cost next to nothing; the AWS library that has the same functions adds 6 MiB to a process whose budget
 * is 64 MiB.
 *
 * How: on x86-64 with PCLMULQDQ, CRC64NVME folds 128-bit lanes (8, or 32 with AVX-512; Gopal et al., "Fast CRC
 * Computation for Generic Polynomials Using PCLMULQDQ", Intel 2009), and CRC32C runs the SSE4.2 instruction in three
 * streams. Other machines use tables, eight bytes a step. No constant is copied from anywhere: tables and factors are
 * computed from the polynomials when the module is loaded.
 *
 * What it deliberately does not do: CRC32 (zlib has it), hashes.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <string.h>

#include "_crc.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Polynomials P, reflected: bit 0 is the coefficient of the highest power. */
#define POLY_64 UINT64_C(0x9A6C9329AC4BC9B5) /* NVM Express Command Set Specification 1.1, 5.2.1.3.4 */
#define POLY_32C UINT64_C(0x82F63B78)        /* RFC 3720, 12.1 */
#define POLY_32 UINT64_C(0xEDB88320)         /* RFC 1952, 8 */
#define MIN_UNLOCKED 4096 /* bytes; releasing the interpreter's lock for less costs more than the CRC */

typedef uint64_t (*Update)(uint64_t state, const uint8_t *data, size_t length);

static uint64_t table_64[8][256], table_32c[8][256];
/* The method that was chosen for this machine, for the tests and the bench. */
static const char *how_64 = "tables", *how_32c = "tables";

static void make_table(uint64_t table[8][256], uint64_t poly) {
    for (int byte = 0; byte < 256; byte++) {
        uint64_t value = (uint64_t)byte;
        for (int bit = 0; bit < 8; bit++) value = (value >> 1) ^ (value & 1 ? poly : 0);
        table[0][byte] = value;
    }
    for (int step = 1; step < 8; step++)
        for (int byte = 0; byte < 256; byte++)
            table[step][byte] = (table[step - 1][byte] >> 8) ^ table[0][table[step - 1][byte] & 255];
}

static uint64_t by_table(uint64_t table[8][256], uint64_t state, const uint8_t *data, size_t length) {
    for (; length >= 8; data += 8, length -= 8) {
        uint64_t next = 0;
        for (int i = 0; i < 8; i++) next ^= table[7 - i][((state >> (8 * i)) ^ data[i]) & 255];
        state = next;
    }
    for (; length; data++, length--) state = (state >> 8) ^ table[0][(state ^ *data) & 255];
    return state;
}

static uint64_t table_update_64(uint64_t state, const uint8_t *data, size_t length) {
    return by_table(table_64, state, data, length);
}

static uint64_t table_update_32c(uint64_t state, const uint8_t *data, size_t length) {
    return by_table(table_32c, state, data, length);
}

/* a * b mod P, both reflected. top: the bit that means 1, which gives the width. */
static uint64_t multiply(uint64_t a, uint64_t b, uint64_t poly, uint64_t top) {
    uint64_t product = 0;
    for (uint64_t bit = top; bit; bit >>= 1) {
        if (a & bit) product ^= b;
        b = (b >> 1) ^ (b & 1 ? poly : 0);
    }
    return product;
}

/* x^(8 * length) mod P. */
static uint64_t shift_by(uint64_t length, uint64_t poly, uint64_t top) {
    uint64_t factor = top, square = top >> 8;
    for (; length; length >>= 1) {
        if (length & 1) factor = multiply(factor, square, poly, top);
        square = multiply(square, square, poly, top);
    }
    return factor;
}

/* The CRC of A followed by B: crc(A) * x^(8 * length of B) + crc(B). length: of B, in bytes. */
static uint64_t joined(uint64_t first, uint64_t second, uint64_t length, uint64_t poly, uint64_t top) {
    return multiply(first, shift_by(length, poly, top), poly, top) ^ second;
}

static Update update_64 = table_update_64, update_32c = table_update_32c;

#if defined(__x86_64__)
#define TOP_32 (UINT64_C(1) << 31)
#define LANES 8
#define WIDE 8 /* registers of four lanes each */

/* Two factors for each distance in bits: x^(distance+63) mod P for the half with the higher powers, x^(distance-1)
 * mod P for the other. One less than the distance, because the product of two reflected numbers is one power short. */
static uint64_t fold_wide[2], fold_lanes[2], fold_one[LANES][2];

/* x^exponent mod P. */
static uint64_t power_64(unsigned exponent) {
    uint64_t value = UINT64_C(1) << 63;
    while (exponent--) value = (value >> 1) ^ (value & 1 ? POLY_64 : 0);
    return value;
}

static void make_factors(void) {
    fold_wide[0] = power_64(128 * 4 * WIDE + 63);
    fold_wide[1] = power_64(128 * 4 * WIDE - 1);
    fold_lanes[0] = power_64(128 * LANES + 63);
    fold_lanes[1] = power_64(128 * LANES - 1);
    for (unsigned lane = 0; lane + 1 < LANES; lane++) {
        unsigned distance = 128 * (LANES - 1 - lane);
        fold_one[lane][0] = power_64(distance + 63);
        fold_one[lane][1] = power_64(distance - 1);
    }
}

/* Carries a lane forward by the distance that its two factors are for. */
__attribute__((target("pclmul,sse4.1"))) static inline __m128i fold(__m128i value, __m128i factors) {
    return _mm_xor_si128(_mm_clmulepi64_si128(value, factors, 0x00), _mm_clmulepi64_si128(value, factors, 0x11));
}

__attribute__((target("pclmul,sse4.1")))
static uint64_t fold_update_64(uint64_t state, const uint8_t *data, size_t length) {
    if (length < 32 * LANES) return by_table(table_64, state, data, length);
    __m128i lane[LANES];
    for (int i = 0; i < LANES; i++) lane[i] = _mm_loadu_si128((const __m128i *)data + i);
    lane[0] = _mm_xor_si128(lane[0], _mm_cvtsi64_si128((long long)state));
    data += 16 * LANES, length -= 16 * LANES;
    const __m128i far = _mm_loadu_si128((const __m128i *)fold_lanes);
    for (; length >= 16 * LANES; data += 16 * LANES, length -= 16 * LANES)
        for (int i = 0; i < LANES; i++)
            lane[i] = _mm_xor_si128(fold(lane[i], far), _mm_loadu_si128((const __m128i *)data + i));
    for (int i = 0; i + 1 < LANES; i++)
        lane[LANES - 1] = _mm_xor_si128(lane[LANES - 1], fold(lane[i], _mm_loadu_si128((const __m128i *)fold_one[i])));
    uint8_t last[16];
    _mm_storeu_si128((__m128i *)last, lane[LANES - 1]);
    return by_table(table_64, by_table(table_64, 0, last, sizeof last), data, length);
}

/* At the end the wide registers hold the beginning of a shorter message with the same CRC, which is folded by lanes. */
__attribute__((target("avx512f,vpclmulqdq")))
static uint64_t wide_update_64(uint64_t state, const uint8_t *data, size_t length) {
    if (length < 128 * WIDE) return fold_update_64(state, data, length);
    __m512i lane[WIDE];
    for (int i = 0; i < WIDE; i++) lane[i] = _mm512_loadu_si512(data + 64 * i);
    lane[0] = _mm512_xor_si512(lane[0], _mm512_zextsi128_si512(_mm_cvtsi64_si128((long long)state)));
    data += 64 * WIDE, length -= 64 * WIDE;
    const __m512i far = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)fold_wide));
    for (; length >= 64 * WIDE; data += 64 * WIDE, length -= 64 * WIDE)
        for (int i = 0; i < WIDE; i++)
            lane[i] = _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(lane[i], far, 0x00),
                                                _mm512_clmulepi64_epi128(lane[i], far, 0x11),
                                                _mm512_loadu_si512(data + 64 * i), 0x96 /* xor of three */);
    uint8_t left[64 * WIDE];
    for (int i = 0; i < WIDE; i++) _mm512_storeu_si512(left + 64 * i, lane[i]);
    return fold_update_64(fold_update_64(0, left, sizeof left), data, length);
}

/* The instruction has a latency of three cycles and starts once a cycle, so three streams run side by side. */
#define STREAM 8192 /* bytes of one stream */
/* x^(8 * bytes) mod P, to carry a CRC past two streams or past one. */
static uint64_t past_two_streams, past_one_stream;

__attribute__((target("sse4.2"))) static uint64_t sse_update_32c(uint64_t state, const uint8_t *data, size_t length) {
    uint64_t word;
    for (; length >= 3 * STREAM; data += 3 * STREAM, length -= 3 * STREAM) {
        uint64_t second = 0, third = 0;
        for (size_t at = 0; at < STREAM; at += 8) {
            memcpy(&word, data + at, 8);
            state = _mm_crc32_u64(state, word);
            memcpy(&word, data + STREAM + at, 8);
            second = _mm_crc32_u64(second, word);
            memcpy(&word, data + 2 * STREAM + at, 8);
            third = _mm_crc32_u64(third, word);
        }
        state = multiply(state, past_two_streams, POLY_32C, TOP_32) ^
                multiply(second, past_one_stream, POLY_32C, TOP_32) ^ third;
    }
    for (; length >= 8; data += 8, length -= 8) {
        memcpy(&word, data, 8);
        state = _mm_crc32_u64(state, word);
    }
    for (; length; data++, length--) state = _mm_crc32_u8((uint32_t)state, *data);
    return state;
}
#endif

static PyObject *update(PyObject *args, Update how, uint64_t mask) {
    Py_buffer view;
    unsigned long long crc = 0;
    if (!PyArg_ParseTuple(args, "y*|K", &view, &crc)) return NULL;
    uint64_t state = ~(uint64_t)crc & mask;
    if (view.len >= MIN_UNLOCKED) {
        Py_BEGIN_ALLOW_THREADS
        state = how(state, view.buf, (size_t)view.len);
        Py_END_ALLOW_THREADS
    } else {
        state = how(state, view.buf, (size_t)view.len);
    }
    PyBuffer_Release(&view);
    return PyLong_FromUnsignedLongLong(~state & mask);
}

static PyObject *join(PyObject *args, uint64_t poly, uint64_t top) {
    unsigned long long first, second, length;
    if (!PyArg_ParseTuple(args, "KKK", &first, &second, &length)) return NULL;
    return PyLong_FromUnsignedLongLong(joined(first, second, length, poly, top));
}

static PyObject *crc64nvme(PyObject *self, PyObject *args) { return update(args, update_64, UINT64_MAX); }
static PyObject *crc32c(PyObject *self, PyObject *args) { return update(args, update_32c, UINT32_MAX); }
static PyObject *slow_crc64nvme(PyObject *self, PyObject *args) { return update(args, table_update_64, UINT64_MAX); }
#if defined(__x86_64__)
static PyObject *middle_crc64nvme(PyObject *self, PyObject *args) { return update(args, fold_update_64, UINT64_MAX); }
#endif
static PyObject *slow_crc32c(PyObject *self, PyObject *args) { return update(args, table_update_32c, UINT32_MAX); }
static PyObject *combine_crc64nvme(PyObject *self, PyObject *args) { return join(args, POLY_64, UINT64_C(1) << 63); }
static PyObject *combine_crc32c(PyObject *self, PyObject *args) { return join(args, POLY_32C, UINT64_C(1) << 31); }
static PyObject *combine_crc32(PyObject *self, PyObject *args) { return join(args, POLY_32, UINT64_C(1) << 31); }

/* A finished CRC is the state inverted. */
static uint64_t continue_64(uint64_t crc, const uint8_t *data, size_t length) { return ~update_64(~crc, data, length); }

static uint64_t continue_32c(uint64_t crc, const uint8_t *data, size_t length) {
    return ~update_32c(~crc & UINT32_MAX, data, length) & UINT32_MAX;
}

static CrcUpdates updates = {continue_64, continue_32c};

static PyMethodDef methods[] = {
    {"crc64nvme", crc64nvme, METH_VARARGS, "crc64nvme(data, crc=0) -> CRC; crc: of the bytes before `data`"},
    {"crc32c", crc32c, METH_VARARGS, "crc32c(data, crc=0) -> CRC; crc: of the bytes before `data`"},
#if defined(__x86_64__)
    {"middle_crc64nvme", middle_crc64nvme, METH_VARARGS, "crc64nvme by 8 lanes, for tests on a machine with more."},
#endif
    {"slow_crc64nvme", slow_crc64nvme, METH_VARARGS, "crc64nvme by tables, for tests."},
    {"slow_crc32c", slow_crc32c, METH_VARARGS, "crc32c by tables, for tests."},
    {"combine_crc64nvme", combine_crc64nvme, METH_VARARGS, "(CRC of A, CRC of B, bytes of B) -> CRC of A then B"},
    {"combine_crc32c", combine_crc32c, METH_VARARGS, "(CRC of A, CRC of B, bytes of B) -> CRC of A then B"},
    {"combine_crc32", combine_crc32, METH_VARARGS, "(CRC of A, CRC of B, bytes of B) -> CRC of A then B"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_crc", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__crc(void) {
    make_table(table_64, POLY_64);
    make_table(table_32c, POLY_32C);
#if defined(__x86_64__)
    make_factors();
    past_one_stream = shift_by(STREAM, POLY_32C, TOP_32);
    past_two_streams = shift_by(2 * STREAM, POLY_32C, TOP_32);
    if (__builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1")) {
        update_64 = fold_update_64;
        how_64 = "PCLMULQDQ";
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq")) {
            update_64 = wide_update_64;
            how_64 = "VPCLMULQDQ";
        }
    }
    if (__builtin_cpu_supports("sse4.2")) {
        update_32c = sse_update_32c;
        how_32c = "SSE4.2";
    }
#endif
    PyObject *self = PyModule_Create(&module), *capsule = PyCapsule_New(&updates, CRC_CAPSULE, NULL);
    if (!self || !capsule || PyModule_AddStringConstant(self, "how_crc64nvme", how_64) ||
        PyModule_AddStringConstant(self, "how_crc32c", how_32c) || PyModule_AddObjectRef(self, "updates", capsule)) {
        Py_XDECREF(self);
        self = NULL;
    }
    Py_XDECREF(capsule);
    return self;
}
