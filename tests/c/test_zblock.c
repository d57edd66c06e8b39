/* SPDX-License-Identifier: Apache-2.0 */
/* zblock - blocks out and in again, and blocks that are damaged. */

#include "check.h"
#include "scratch.h"
#include "zblock.h"

/* plain[n] in blocks of block_size, as stored; the lengths go to *lengths. */
static uint8_t *
encoded(int algo, int level, uint32_t block_size, int verify,
        const uint8_t *plain, size_t n, uint32_t *lengths)
{
    size_t blocks = (n + block_size - 1) / block_size, written = 0, sum = 0;
    size_t cap = blocks * obd_zblock_bound(algo, block_size, verify);
    uint8_t *stored = grab(cap);

    SAME(obd_zblock_encode(algo, level, block_size, verify, plain, n, stored,
                           cap, lengths, &written), OBD_OK);
    for (size_t i = 0; i < blocks; i++)
        sum += lengths[i];
    SAME(sum, written);
    return stored;
}

static void
out_and_in(struct chance *r, int algo, uint32_t block_size, int verify)
{
    size_t n = 1 + chance_below(r, 5 * (size_t)block_size);
    uint8_t *plain = grab(n), *back = grab(block_size);
    uint32_t lengths[6];
    struct obd_fault f;

    chance_fill(r, plain, n);
    uint8_t *stored = encoded(algo, (int)chance_below(r, 5), block_size,
                              verify, plain, n, lengths);
    for (size_t at = 0, used = 0, i = 0; at < n; at += block_size, i++) {
        size_t size = n - at < block_size ? n - at : block_size;
        /* A copy of just the right size, so that ASan sees the ends. */
        uint8_t *copy = memcpy(grab(lengths[i]), stored + used, lengths[i]);

        SAME(obd_zblock_decode_one(algo, verify, copy, lengths[i], back, size,
                                   &f), OBD_OK);
        SAME(memcmp(back, plain + at, size), 0);
        free(copy);
        used += lengths[i];
    }
    free(stored);
    free(back);
    free(plain);
}

TEST(zblock_out_and_in)
{
    struct chance r = { 3 };

    for (int round = 0; round < 12; round++)
        for (int algo = OBD_ALGO_LZ4; algo <= OBD_ALGO_ZSTD; algo++)
            for (uint32_t size = OBD_BLOCK_MIN; size <= OBD_BLOCK_MAX;
                 size *= 2)
                out_and_in(&r, algo, size, round & 1);
}

TEST(zblock_every_flip_is_seen)
{
    struct chance r = { 4 };
    uint8_t plain[4096], back[4096];
    uint32_t length;
    struct obd_fault f;

    for (int algo = OBD_ALGO_LZ4; algo <= OBD_ALGO_ZSTD; algo++) {
        chance_fill(&r, plain, sizeof plain);
        uint8_t *s = encoded(algo, 1, 4096, 1, plain, 4096, &length);

        size_t bits = 8 * (size_t)length;

        /* Some of the data, all of the crc. */
        for (size_t bit = 0; bit < bits;
             bit += bit + 64 < bits ? 1 + chance_below(&r, 32) : 1) {
            s[bit / 8] ^= (uint8_t)(1 << bit % 8);
            SAME(obd_zblock_decode_one(algo, 1, s, length, back, 4096, &f),
                 OBD_BAD_CRC);
            assert(f.got != f.want);
            s[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        SAME(obd_zblock_decode_one(algo, 1, s, length, back, 4096, &f),
             OBD_OK);
        free(s);
    }
}

/* Without a crc damage may go unseen, but never reach past the buffer. */
TEST(zblock_garbage_stays_inside)
{
    struct chance r = { 5 };
    uint8_t plain[4096];
    uint32_t length;
    struct obd_fault f;

    for (int algo = OBD_ALGO_LZ4; algo <= OBD_ALGO_ZSTD; algo++)
        for (int round = 0; round < 2000; round++) {
            chance_fill(&r, plain, sizeof plain);
            uint8_t *s = encoded(algo, 1, 4096, 0, plain, 4096, &length);
            size_t n = chance_below(&r, length + 1);
            uint8_t *cut = memcpy(grab(n), s, n);
            size_t size = 1 + chance_below(&r, 4096);
            uint8_t *back = grab(size);

            for (uint64_t flips = chance_below(&r, 4); n && flips; flips--)
                cut[chance_below(&r, n)] ^= (uint8_t)chance_next(&r);
            int status = obd_zblock_decode_one(algo, 0, cut, n, back, size,
                                               &f);
            assert(status == OBD_OK || status == OBD_BAD_BLOCK);
            free(back);
            free(cut);
            free(s);
        }
}

TEST(zblock_size_must_be_exact)
{
    struct chance r = { 6 };
    uint8_t plain[5000], back[8192];
    uint32_t lengths[2];
    struct obd_fault f;

    for (int algo = OBD_ALGO_LZ4; algo <= OBD_ALGO_ZSTD; algo++) {
        chance_fill(&r, plain, sizeof plain);
        uint8_t *s = encoded(algo, 1, 8192, 1, plain, 5000, lengths);

        for (size_t size = 4990; size < 5010; size++)
            SAME(obd_zblock_decode_one(algo, 1, s, lengths[0], back, size,
                                       &f),
                 size == 5000 ? OBD_OK : OBD_BAD_BLOCK);
        free(s);
    }
}

TEST(zblock_too_short_for_its_crc)
{
    uint8_t stored[4] = { 0 }, back[16];
    struct obd_fault f;

    for (size_t n = 0; n < 4; n++)
        SAME(obd_zblock_decode_one(OBD_ALGO_LZ4, 1, stored, n, back, 16, &f),
             OBD_BAD_LENGTH);
}

TEST(zblock_refuses_what_the_caller_got_wrong)
{
    uint8_t plain[4096] = { 0 }, dst[8192];
    uint32_t length;
    struct obd_fault f;
    size_t n;

    SAME(obd_zblock_encode(3, 1, 4096, 1, plain, 4096, dst, 8192, &length,
                           &n), OBD_BAD_ARGUMENT);
    SAME(obd_zblock_encode(OBD_ALGO_LZ4, 1, 0, 1, plain, 4096, dst, 8192,
                           &length, &n), OBD_BAD_ARGUMENT);
    SAME(obd_zblock_encode(OBD_ALGO_LZ4, 1, 4096, 1, plain, 4096, dst, 4096,
                           &length, &n), OBD_BAD_ARGUMENT);
    SAME(obd_zblock_decode_one(0, 0, plain, 10, dst, 10, &f),
         OBD_BAD_ARGUMENT);
}
