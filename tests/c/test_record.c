/* SPDX-License-Identifier: Apache-2.0 */
/* record - every rule of an index entry, one sector on either side of it. */

#include "bytes.h"
#include "check.h"
#include "record.h"

static const struct obd_bounds BOUNDS = { 1000, 8, 500 };

static void
put(uint8_t *raw, struct obd_segment s)
{
    obd_store64(raw, s.lo);
    obd_store64(raw + 8, s.hi);
}

/* What unpacking one good entry and then s gives. */
static int
judged(struct obd_segment s, struct obd_fault *fault)
{
    uint8_t raw[32];
    struct obd_segment out[2];
    size_t count;

    put(raw, entry(100, 50, 8, 0));
    put(raw + 16, s);
    int status = obd_record_unpack(raw, 2, &BOUNDS, out, &count, fault);

    if (status == OBD_OK)
        SAME(count, 2);
    else
        SAME(fault->at, 1);
    return status;
}

TEST(record_rules_at_their_edges)
{
    struct obd_fault f;

    SAME(judged(entry(150, 1, 8, 0), &f), OBD_OK);
    SAME(judged(entry(150, 0, 8, 0), &f), OBD_EMPTY_ENTRY);
    SAME(judged(entry(149, 1, 8, 0), &f), OBD_DISORDER);
    SAME(judged(entry(0, 200, 8, 0), &f), OBD_DISORDER);
    SAME(judged(entry(990, 10, 8, 0), &f), OBD_OK);
    SAME(judged(entry(990, 11, 8, 0), &f), OBD_BEYOND_DISK);
    SAME(f.got, 1001);
    SAME(f.want, 1000);
    SAME(judged(entry(150, 1, 7, 0), &f), OBD_BEFORE_DATA);
    SAME(judged(entry(150, 1, 0, 0), &f), OBD_BEFORE_DATA);
    SAME(judged(entry(150, 2, 498, 0), &f), OBD_OK);
    SAME(judged(entry(150, 2, 499, 0), &f), OBD_BEYOND_DATA);
    SAME(f.got, 501);
    SAME(f.want, 500);
}

TEST(record_greatest_words_do_not_wrap)
{
    struct obd_fault f;

    SAME(judged(entry(OBD_START_MASK - 1, OBD_MAX_LENGTH, 8, 0), &f),
         OBD_BEYOND_DISK);
    SAME(judged(entry(150, 1, OBD_MOFFSET_MASK, 0), &f), OBD_BEYOND_DATA);
    SAME(judged(entry(150, OBD_MAX_LENGTH, OBD_MOFFSET_MASK, 1), &f),
         OBD_BEYOND_DISK);
}

TEST(record_zeroed_needs_no_data)
{
    struct obd_fault f;

    SAME(judged(entry(150, 300, 500, 1), &f), OBD_OK);
    SAME(judged(entry(150, 0, 500, 1), &f), OBD_EMPTY_ENTRY);
}

TEST(record_padding_and_tags_are_dropped)
{
    uint8_t raw[5 * OBD_RECORD_SIZE];
    struct obd_segment out[5], s = entry(10, 1, 8, 0);
    struct obd_fault f;
    size_t count;

    s.hi |= UINT64_C(0xab) << OBD_TAG_SHIFT;
    put(raw, entry(OBD_PADDING_START, 0, 0, 0));
    put(raw + 16, s);
    put(raw + 32, entry(OBD_PADDING_START, 77, 0, 1));
    put(raw + 48, entry(11, 1, 9, 0));
    put(raw + 64, entry(OBD_PADDING_START, 0, 0, 0));
    SAME(obd_record_unpack(raw, 5, &BOUNDS, out, &count, &f), OBD_OK);
    SAME(count, 2);
    SAME(out[0].hi, 8);
    SAME(obd_start(&out[1]), 11);
    obd_record_pack(out, count, raw);
    SAME(obd_load64(raw), s.lo);
    SAME(obd_load64(raw + 8), 8);
    SAME(obd_record_unpack(raw, 0, &BOUNDS, out, &count, &f), OBD_OK);
    SAME(count, 0);
}

TEST(record_pack_clears_the_tag)
{
    struct obd_segment s = entry(3, 4, 5, 1);
    uint8_t raw[OBD_RECORD_SIZE];

    s.hi |= UINT64_C(0xff) << OBD_TAG_SHIFT;
    obd_record_pack(&s, 1, raw);
    SAME(obd_load64(raw + 8), 5 | OBD_ZEROED_BIT);
}
