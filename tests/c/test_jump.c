/* SPDX-License-Identifier: Apache-2.0 */
/* jump - tables good and bad, whole and in pieces. */

#include "bytes.h"
#include "check.h"
#include "crc32c.h"
#include "jump.h"

#define KIB4 12

/* Feed n lengths in pieces of at most step. */
static int
feed(struct obd_jump *j, const uint32_t *lengths, size_t n, size_t step,
     struct obd_fault *f)
{
    int status = OBD_OK;

    for (size_t at = 0; status == OBD_OK && at < n; at += step) {
        size_t part = n - at < step ? n - at : step;
        uint8_t *raw = grab(4 * part);

        for (size_t i = 0; i < part; i++)
            obd_store32(raw + 4 * i, lengths[at + i]);
        status = obd_jump_feed(j, raw, part, f);
        free(raw);
    }
    return status;
}

TEST(jump_offsets_are_sums)
{
    struct chance r = { 7 };
    size_t n = 70000;                   /* more than two groups */
    uint32_t *lengths = grab(n * sizeof *lengths), crc = 0;
    uint64_t sum = 512;
    struct obd_fault f;

    for (size_t i = 0; i < n; i++) {
        uint8_t raw[4];

        lengths[i] = (uint32_t)(5 + chance_below(&r, 4000));
        obd_store32(raw, lengths[i]);
        crc = obd_crc32c(crc, raw, 4);
        sum += lengths[i];
    }
    struct obd_jump *j = obd_jump_new(1, 1, KIB4, n * 4096 - 9, 512, sum);

    assert(j != NULL);
    SAME(feed(j, lengths, n, 1 + chance_below(&r, 5000), &f), OBD_OK);
    SAME(obd_jump_finish(j, &f), OBD_OK);
    SAME(obd_jump_crc(j), crc);
    SAME(obd_jump_blocks(j), n);
    SAME(obd_jump_inflated(j, 0), 4096);
    SAME(obd_jump_inflated(j, n - 1), 4087);
    sum = 512;
    for (size_t i = 0; i < n; i++) {
        SAME(obd_jump_offset(j, i), sum);
        sum += lengths[i];
    }
    SAME(obd_jump_offset(j, n), sum);
    assert(obd_jump_memory(j) < n * 7);
    obd_jump_free(j);
    free(lengths);
}

/* What a table of two blocks gives, stored from 512 to end. */
static int
two(uint32_t a, uint32_t b, uint64_t end, struct obd_fault *f)
{
    uint32_t lengths[2] = { a, b };
    struct obd_jump *j = obd_jump_new(1, 1, KIB4, 8192, 512, end);

    assert(j != NULL);
    int status = feed(j, lengths, 2, 2, f);

    if (status == OBD_OK)
        status = obd_jump_finish(j, f);
    obd_jump_free(j);
    return status;
}

TEST(jump_bad_lengths_and_sums)
{
    struct obd_fault f;

    SAME(two(100, 50, 662, &f), OBD_OK);
    SAME(two(100, 50, 663, &f), OBD_BAD_SUM);
    SAME(f.got, 662);
    SAME(f.want, 663);
    SAME(two(100, 50, 661, &f), OBD_BAD_LENGTH);
    SAME(f.block, 1);
    SAME(two(0, 50, 562, &f), OBD_BAD_LENGTH);
    SAME(f.block, 0);
    SAME(two(4, 50, 566, &f), OBD_BAD_LENGTH);
    SAME(two(5, 50, 567, &f), OBD_OK);
    SAME(two(UINT32_MAX, 50, UINT64_MAX, &f), OBD_BAD_LENGTH);
    SAME(two(8192, 50, 8754, &f), OBD_BAD_LENGTH);
}

TEST(jump_number_of_lengths)
{
    uint32_t lengths[3] = { 10, 10, 10 };
    struct obd_fault f;
    struct obd_jump *j = obd_jump_new(2, 1, KIB4, 8192, 512, 542);

    assert(j != NULL);
    SAME(feed(j, lengths, 1, 1, &f), OBD_OK);
    SAME(obd_jump_finish(j, &f), OBD_TOO_MANY);
    SAME(f.got, 1);
    SAME(f.want, 2);
    obd_jump_free(j);
    j = obd_jump_new(2, 1, KIB4, 8192, 512, 542);
    assert(j != NULL);
    SAME(feed(j, lengths, 3, 3, &f), OBD_TOO_MANY);
    obd_jump_free(j);
}

TEST(jump_of_nothing)
{
    struct obd_fault f;
    struct obd_jump *j = obd_jump_new(1, 1, KIB4, 0, 512, 512);

    assert(j != NULL);
    SAME(obd_jump_finish(j, &f), OBD_OK);
    SAME(obd_jump_offset(j, 0), 512);
    obd_jump_free(j);
}

/* A header may claim 2^64 bytes: memory follows what comes, not the claim. */
TEST(jump_memory_follows_what_was_fed)
{
    struct obd_fault f;
    uint8_t raw[4096];
    struct obd_jump *j = obd_jump_new(1, 0, KIB4, UINT64_MAX, 512,
                                      UINT64_MAX);

    assert(j != NULL);
    for (size_t i = 0; i < 1024; i++)
        obd_store32(raw + 4 * i, 4000);
    for (int i = 0; i < 64; i++)
        SAME(obd_jump_feed(j, raw, 1024, &f), OBD_OK);
    assert(obd_jump_memory(j) < 1 << 19);
    SAME(obd_jump_finish(j, &f), OBD_TOO_MANY);
    obd_jump_free(j);
}

TEST(jump_end_before_first)
{
    struct obd_fault f;
    uint32_t lengths[1] = { 100 };
    struct obd_jump *j = obd_jump_new(1, 0, KIB4, 4096, 512, 100);

    assert(j != NULL);
    assert(feed(j, lengths, 1, 1, &f) != OBD_OK
           || obd_jump_finish(j, &f) != OBD_OK);
    obd_jump_free(j);
}
