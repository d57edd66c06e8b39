/* SPDX-License-Identifier: Apache-2.0 */
/* crc32c - see crc32c.h.
 *
 * The instruction takes three cycles and a new one can start each cycle, so
 * a block is cut in three streams of equal length that are summed at once:
 *
 *   |------ a ------|------ b ------|------ c ------| tail
 *
 *   crc(abc) = shift(crc(a), 2k) ^ shift(crc(b), k) ^ crc(c)
 *
 * where shift(x, k) appends k zero bytes, a multiplication by x^(8k) modulo
 * the polynomial.  One carry-less multiplication by x^(8k-33) leaves a
 * 64-bit product that the crc32 instruction itself reduces.
 */

#include "crc32c.h"

#include <stdbool.h>

#include "bytes.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define HAVE_SSE42 1
#endif

#define POLY UINT32_C(0x82f63b78)       /* reflected */

/* Words of eight bytes in one stream at most: 24 KiB a round. */
#define MAX_WORDS 1024
/* Below this the setup costs more than it saves (measured: 96..192). */
#define MIN_STREAMED 144

static uint32_t table[8][256];
static uint32_t shift_by[2 * MAX_WORDS + 1];    /* [w] = x^(64 w - 33) */
static int best;

static uint32_t
times_x(uint32_t v)
{
    return (v >> 1) ^ (v & 1 ? POLY : 0);
}

static void
make_tables(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t v = i;

        for (int bit = 0; bit < 8; bit++)
            v = times_x(v);
        table[0][i] = v;
    }
    for (size_t k = 1; k < 8; k++)
        for (size_t i = 0; i < 256; i++)
            table[k][i] = (table[k - 1][i] >> 8)
                          ^ table[0][table[k - 1][i] & 0xff];

    /* Reflected, x^0 is the top bit; 31 steps from there are x^31. */
    uint32_t v = UINT32_C(0x80000000);
    for (int i = 0; i < 64 - 33; i++)
        v = times_x(v);
    for (size_t w = 1; w <= 2 * MAX_WORDS; w++) {
        shift_by[w] = v;
        for (int i = 0; i < 64; i++)
            v = times_x(v);
    }
}

static uint32_t
portable(uint32_t crc, const uint8_t *p, size_t n)
{
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t w = obd_load64(p) ^ crc;

        crc = table[7][w & 0xff] ^ table[6][w >> 8 & 0xff]
              ^ table[5][w >> 16 & 0xff] ^ table[4][w >> 24 & 0xff]
              ^ table[3][w >> 32 & 0xff] ^ table[2][w >> 40 & 0xff]
              ^ table[1][w >> 48 & 0xff] ^ table[0][w >> 56];
    }
    for (; n > 0; n--, p++)
        crc = (crc >> 8) ^ table[0][(crc ^ *p) & 0xff];
    return crc;
}

#ifdef HAVE_SSE42
__attribute__((target("sse4.2,pclmul")))
static uint64_t
shifted(uint64_t crc, size_t words)
{
    __m128i product = _mm_clmulepi64_si128(
        _mm_cvtsi64_si128((int64_t)crc),
        _mm_cvtsi64_si128((int64_t)shift_by[words]), 0);

    return _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

__attribute__((target("sse4.2,pclmul")))
static uint32_t
sse42(uint32_t seed, const uint8_t *p, size_t n)
{
    uint64_t crc = seed;

    while (n >= MIN_STREAMED) {
        size_t words = n / 24 < MAX_WORDS ? n / 24 : MAX_WORDS;
        const uint8_t *pb = p + 8 * words, *pc = pb + 8 * words;
        uint64_t b = 0, c = 0;

        for (size_t i = 0; i < words; i++) {
            crc = _mm_crc32_u64(crc, obd_load64(p + 8 * i));
            b = _mm_crc32_u64(b, obd_load64(pb + 8 * i));
            c = _mm_crc32_u64(c, obd_load64(pc + 8 * i));
        }
        crc = shifted(crc, 2 * words) ^ shifted(b, words) ^ c;
        p += 24 * words;
        n -= 24 * words;
    }
    for (; n >= 8; n -= 8, p += 8)
        crc = _mm_crc32_u64(crc, obd_load64(p));
    for (; n > 0; n--, p++)
        crc = _mm_crc32_u8((uint32_t)crc, *p);
    return (uint32_t)crc;
}
#endif

static bool
can_run(int kernel)
{
    switch (kernel) {
    case OBD_CRC32C_PORTABLE:
        return true;
#ifdef HAVE_SSE42
    case OBD_CRC32C_SSE42:
        return __builtin_cpu_supports("sse4.2")
               && __builtin_cpu_supports("pclmul");
#endif
    default:
        return false;
    }
}

/* Before main, so that no reader ever tests whether the tables are there. */
__attribute__((constructor))
static void
setup(void)
{
    make_tables();
#ifdef HAVE_SSE42
    __builtin_cpu_init();
#endif
    best = can_run(OBD_CRC32C_SSE42) ? OBD_CRC32C_SSE42 : OBD_CRC32C_PORTABLE;
}

static uint32_t
run(int kernel, uint32_t seed, const void *p, size_t n)
{
#ifdef HAVE_SSE42
    if (kernel == OBD_CRC32C_SSE42)
        return sse42(seed, p, n);
#endif
    (void)kernel;
    return portable(seed, p, n);
}

uint32_t
obd_crc32c(uint32_t seed, const void *p, size_t n)
{
    return run(best, seed, p, n);
}

int
obd_crc32c_with(int kernel, uint32_t seed, const void *p, size_t n,
                uint32_t *crc)
{
    if (!can_run(kernel))
        return OBD_NO_KERNEL;
    *crc = run(kernel, seed, p, n);
    return OBD_OK;
}
