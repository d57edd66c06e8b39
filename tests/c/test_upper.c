/* SPDX-License-Identifier: Apache-2.0 */
/* upper - the log and its flushes, one caller at a time. */

#include <errno.h>

#include "record.h"
#include "uppers.h"

#define DISK 1000
#define FIRST 8                 /* sector of the data file with the first data */

static int
flush_status(struct rig *g, struct obd_fault *f)
{
    *f = (struct obd_fault){ 0 };
    return obd_upper_flush(g->upper, f);
}

TEST(upper_flush_is_in_order)
{
    struct rig g;

    rig_make(&g, DISK, false, 0);
    rig_did(&g, "sS");
    SAME(rig_write(&g, 5, 3, 1), OBD_OK);
    SAME(rig_write(&g, 9, 3, 2), OBD_OK);
    rig_did(&g, "ww");
    rig_flush(&g);
    rig_did(&g, "sWS");
    rig_flush(&g);
    rig_did(&g, "");
    rig_zero(&g, 5, 100);
    rig_flush(&g);
    rig_did(&g, "sWS");
    rig_zero(&g, 6, 50);            /* is zero already */
    rig_flush(&g);
    rig_did(&g, "");
    rig_free(&g);
}

TEST(upper_in_place_needs_few_records)
{
    struct rig g;

    rig_make(&g, DISK, true, 0);
    rig_did(&g, "sS");
    SAME(rig_write(&g, 5, 10, 1), OBD_OK);
    rig_flush(&g);
    rig_did(&g, "wsWS");
    SAME(rig_write(&g, 7, 3, 2), OBD_OK);
    rig_flush(&g);
    rig_did(&g, "ws");
    rig_zero(&g, 7, 1);
    rig_flush(&g);
    rig_did(&g, "psWS");
    SAME(rig_write(&g, 6, 3, 3), OBD_OK);
    rig_flush(&g);
    rig_did(&g, "wsWS");
    SAME(rig_facts(&g).records, 3);
    SAME(rig_read_one(&g, 7), 3);
    SAME(rig_read_one(&g, 9), 2);
    SAME(rig_read_one(&g, 15), UNMAPPED);
    rig_free(&g);
}

/* The four conditions of upper.h, broken one by one, among good records. */
TEST(upper_replays_what_counts)
{
    struct rig g;
    struct obd_upper_facts facts;

    rig_make(&g, DISK, false, 0);
    SAME(rig_write(&g, 0, 4, 1), OBD_OK);
    rig_flush(&g);
    rig_append_record(&g, entry(0, 0, 0, 0));
    rig_append_record(&g, entry(0, 0, FIRST, 0));
    rig_append_record(&g, entry(DISK - 1, 2, FIRST, 0));
    rig_append_record(&g, entry(DISK - 1, 2, FIRST, 1));
    rig_append_record(&g, entry(OBD_PADDING_START, 0, 0, 0));
    rig_append_record(&g, entry(OBD_PADDING_START, 7, 9, 0));
    rig_append_record(&g, entry(20, 1, FIRST - 1, 0));
    rig_append_record(&g, entry(20, 5, FIRST, 0));
    rig_append_record(&g, entry(20, 1, OBD_MOFFSET_MASK, 0));
    rig_append_record(&g, entry(DISK - 1, 1, OBD_MOFFSET_MASK, 1));
    rig_append_record(&g, entry(21, 2, FIRST + 1, 0));
    rig_reopen(&g);
    facts = rig_facts(&g);
    SAME(facts.records, 12);
    SAME(facts.padding, 2);
    SAME(facts.empty, 2);
    SAME(facts.beyond_disk, 2);
    SAME(facts.dangling, 3);
    SAME(facts.segments, 3);
    SAME(facts.unused, 0);
    SAME(rig_read_one(&g, 3), 1);
    SAME(rig_read_one(&g, 22), 1);
    SAME(rig_read_one(&g, 20), UNMAPPED);
    SAME(rig_read_one(&g, DISK - 1), 0);

    /* They were mended: a longer data file brings none of them back. */
    SAME(rig_write(&g, 30, 40, 2), OBD_OK);
    rig_flush(&g);
    rig_reopen(&g);
    facts = rig_facts(&g);
    SAME(facts.records, 13);
    SAME(facts.padding, 9);
    SAME(facts.empty + facts.beyond_disk + facts.dangling, 0);
    SAME(rig_read_one(&g, 20), UNMAPPED);
    rig_free(&g);
}

TEST(upper_in_place_data_is_in_its_place)
{
    struct rig g;

    rig_make(&g, DISK, true, 0);
    SAME(rig_write(&g, 0, 10, 1), OBD_OK);
    rig_append_record(&g, entry(20, 1, FIRST, 0));
    rig_append_record(&g, entry(0, 10, FIRST, 0));
    rig_reopen(&g);
    SAME(rig_facts(&g).dangling, 1);
    SAME(rig_read_one(&g, 9), 1);
    SAME(rig_read_one(&g, 20), UNMAPPED);
    rig_free(&g);
}

TEST(upper_says_when_a_repair_fails)
{
    struct rig g;
    struct obd_fault f = { 0 };
    uint8_t empty[OBD_RECORD_SIZE] = { 0 };

    rig_make(&g, DISK, false, 0);
    g.failing = EIO;
    g.fails = 'W';
    SAME(obd_upper_replay(g.upper, empty, 1, FIRST, 1, &f), OBD_IO);
    SAME(f.got, EIO);
    SAME(f.at, HEADER);
    SAME(obd_upper_replay(g.upper, empty, 1, FIRST, 0, &f), OBD_OK);
    g.fails = 'S';
    SAME(obd_upper_start(g.upper, FIRST, &f), OBD_IO);
    rig_free(&g);
}

/* The place of data is written over only when the record that hides it is
 * durable.
 */
TEST(upper_keeps_what_is_hidden_until_the_flush)
{
    struct rig g;

    rig_make(&g, DISK, false, 0);
    SAME(rig_write(&g, 0, 8, 1), OBD_OK);
    rig_flush(&g);
    for (uint64_t i = 0; i < 50; i++)
        SAME(rig_write(&g, 0, 8, 2 + i), OBD_OK);
    SAME(rig_facts(&g).data_end, FIRST + 51 * 8);
    rig_reopen(&g);             /* killed: the records were in memory only */
    SAME(rig_read_one(&g, 0), 1);
    SAME(rig_read_one(&g, 7), 1);
    SAME(rig_facts(&g).unused, 50 * 8);
    for (uint64_t i = 0; i < 500; i++) {
        SAME(rig_write(&g, 0, 8, 100 + i), OBD_OK);
        rig_flush(&g);
    }
    SAME(rig_facts(&g).data_end, FIRST + 51 * 8);
    rig_free(&g);
}

/* A reader that found a place has it to itself, whatever was flushed before
 * it came and after.
 */
TEST(upper_keeps_what_is_read)
{
    for (int before = 0; before < 4; before++)
        for (int after = 1; after < 6; after++) {
            struct obd_segment s;
            struct obd_fault f;
            struct rig g;
            uint8_t buf[SECTOR];
            uint64_t upto;

            rig_make(&g, DISK, false, 0);
            SAME(rig_write(&g, 0, 1, 1), OBD_OK);
            rig_flush(&g);
            unsigned ticket = obd_upper_enter(g.upper);

            SAME(obd_upper_collect(g.upper, 0, 1, &s, 1, &upto), 1);
            for (int i = 0; i < before; i++)
                rig_flush(&g);
            SAME(rig_write(&g, 0, 1, 2), OBD_OK);
            for (int i = 0; i < after; i++) {
                rig_flush(&g);
                SAME(rig_write(&g, 10 + (uint64_t)i, 1, 3), OBD_OK);
            }
            SAME(obd_upper_read(g.upper, obd_moffset(&s) * SECTOR, buf, SECTOR,
                                &f), OBD_OK);
            SAME(buf[0], 1);
            obd_upper_leave(g.upper, ticket);
            for (int i = 0; i < 4; i++)
                rig_flush(&g);
            SAME(rig_facts(&g).unused, 1);
            SAME(rig_write(&g, 50, 1, 4), OBD_OK);
            SAME(rig_facts(&g).unused, 0);
            rig_free(&g);
        }
}

static void
write_five(struct rig *g)
{
    SAME(rig_write(g, 5, 1, 55), OBD_OK);
}

TEST(upper_flush_promises_what_came_before_it)
{
    struct rig g;

    for (int in_place = 0; in_place < 2; in_place++) {
        rig_make(&g, DISK, in_place, 0);
        SAME(rig_write(&g, 1, 1, 11), OBD_OK);
        g.during = write_five;
        rig_flush(&g);
        SAME(rig_facts(&g).pending, 1);
        SAME(rig_read_one(&g, 5), 55);
        rig_flush(&g);
        SAME(rig_facts(&g).pending, 0);
        rig_reopen(&g);
        SAME(rig_read_one(&g, 1), 11);
        SAME(rig_read_one(&g, 5), 55);
        rig_free(&g);
    }
}

TEST(upper_goes_on_when_there_is_room_again)
{
    struct rig g;
    struct obd_fault f;

    rig_make(&g, DISK, false, 0);
    SAME(rig_write(&g, 0, 8, 1), OBD_OK);
    g.failing = ENOSPC;
    for (int i = 0; i < 3; i++) {
        g.fails = 'W';
        SAME(flush_status(&g, &f), OBD_FULL);
        SAME(f.got, ENOSPC);
        g.fails = 'w';
        SAME(rig_write(&g, 0, 4, 2), OBD_FULL);
        SAME(rig_read_one(&g, 0), 1);
        g.fails = 0;
        SAME(rig_write(&g, 20 + (uint64_t)i, 1, 3), OBD_OK);
    }
    rig_flush(&g);
    SAME(rig_facts(&g).pending, 0);
    rig_reopen(&g);
    SAME(rig_read_one(&g, 0), 1);
    SAME(rig_read_one(&g, 7), 1);
    SAME(rig_read_one(&g, 22), 3);
    SAME(rig_facts(&g).records, 4);
    rig_free(&g);
}

TEST(upper_never_trusts_a_file_whose_sync_failed)
{
    for (const char *kind = "sS"; *kind; kind++) {
        struct rig g;
        struct obd_fault f;

        rig_make(&g, DISK, false, 0);
        SAME(rig_write(&g, 0, 8, 1), OBD_OK);
        g.failing = EIO;
        g.fails = *kind;
        SAME(flush_status(&g, &f), OBD_IO);
        SAME(f.got, EIO);
        g.fails = 0;
        SAME(flush_status(&g, &f), OBD_IO);
        SAME(f.got, EIO);
        SAME(obd_upper_index_begin(g.upper, g.index_fd, &f), OBD_IO);
        SAME(f.got, EIO);
        SAME(rig_read_one(&g, 0), 1);
        rig_free(&g);
    }
}

/* Long garbage is given back to the file system before it is used again. */
TEST(upper_gives_long_garbage_back)
{
    struct rig g;

    rig_make(&g, DISK, false, 0);
    SAME(rig_write(&g, 0, 300, 1), OBD_OK);
    rig_flush(&g);
    SAME(rig_write(&g, 0, 300, 2), OBD_OK);
    rig_flush(&g);
    rig_did(&g, "sSwsWSwsWS");
    rig_flush(&g);
    rig_did(&g, "p");
    SAME(rig_write(&g, 400, 300, 3), OBD_OK);
    SAME(rig_facts(&g).data_end, FIRST + 600);
    SAME(rig_read_one(&g, 299), 2);
    SAME(rig_read_one(&g, 699), 3);
    rig_free(&g);
}

/* ---- The index file anew ---- */

static int
next_index(void)
{
    uint8_t header[HEADER] = { 0 };

    return file_of(header, sizeof header);
}

TEST(upper_index_is_written_anew)
{
    struct rig g;
    struct obd_fault f;

    rig_make(&g, DISK, false, 0);
    for (uint64_t i = 0; i < 200; i++)
        SAME(rig_write(&g, i % 10, 2, i), OBD_OK);
    rig_flush(&g);
    SAME(rig_facts(&g).records, 200);
    SAME(rig_write(&g, 20, 1, 7), OBD_OK);      /* waits for a flush */
    int next = next_index(), old = g.index_fd;

    g.during = write_five;                      /* and this comes between */
    SAME(obd_upper_index_begin(g.upper, next, &f), OBD_OK);
    SAME(rig_write(&g, 30, 1, 8), OBD_OK);
    obd_upper_index_end(g.upper, 1);
    close(old);
    g.index_fd = g.setup.index_fd = next;
    assert(rig_facts(&g).records <= 13);
    SAME(rig_facts(&g).pending, 2);
    rig_flush(&g);
    rig_reopen(&g);
    SAME(rig_read_one(&g, 10), 199);
    SAME(rig_read_one(&g, 20), 7);
    SAME(rig_read_one(&g, 5), 55);
    SAME(rig_read_one(&g, 30), 8);
    rig_free(&g);
}

TEST(upper_index_stays_when_the_new_one_fails)
{
    struct rig g;
    struct obd_fault f = { 0 };
    int next = next_index();

    rig_make(&g, DISK, false, 0);
    SAME(rig_write(&g, 1, 1, 1), OBD_OK);
    SAME(obd_upper_index_begin(g.upper, next, &f), OBD_OK);
    SAME(rig_write(&g, 2, 1, 2), OBD_OK);
    obd_upper_index_end(g.upper, 0);
    g.failing = ENOSPC;
    g.fails = 'W';
    SAME(obd_upper_index_begin(g.upper, next, &f), OBD_FULL);
    SAME(f.got, ENOSPC);
    g.fails = 0;
    SAME(rig_write(&g, 3, 1, 3), OBD_OK);
    SAME(rig_facts(&g).pending, 3);
    rig_flush(&g);
    rig_reopen(&g);
    for (uint64_t i = 1; i < 4; i++)
        SAME(rig_read_one(&g, i), i);
    close(next);
    rig_free(&g);
}

TEST(upper_trusts_no_index_that_may_be_either)
{
    struct rig g;
    struct obd_fault f = { 0 };
    int next = next_index();

    rig_make(&g, DISK, false, 0);
    SAME(rig_write(&g, 1, 1, 1), OBD_OK);
    SAME(obd_upper_index_begin(g.upper, next, &f), OBD_OK);
    obd_upper_index_end(g.upper, -EIO);
    SAME(flush_status(&g, &f), OBD_IO);
    SAME(f.got, EIO);
    SAME(obd_upper_index_begin(g.upper, next, &f), OBD_IO);
    SAME(rig_read_one(&g, 1), 1);
    close(next);
    rig_free(&g);
}

/* ---- At random ---- */

static void
replace_index(struct rig *g, bool done)
{
    int next = next_index(), old = g->index_fd;
    struct obd_fault f;

    SAME(obd_upper_index_begin(g->upper, next, &f), OBD_OK);
    obd_upper_index_end(g->upper, done);
    if (done)
        g->index_fd = g->setup.index_fd = next;
    close(done ? old : next);
}

static void
step(struct rig *g, struct chance *r, uint64_t *model, uint64_t value)
{
    uint64_t start = chance_below(r, DISK), kind = chance_below(r, 16);
    uint64_t length = 1 + chance_below(r, chance_below(r, 9) ? 12 : 400);

    length = start + length > DISK ? DISK - start : length;
    if (kind < 9)
        SAME(rig_write(g, start, length, value), OBD_OK);
    else if (kind < 12)
        rig_zero(g, start, length);
    else if (kind < 15)
        rig_flush(g);
    else
        replace_index(g, chance_below(r, 3) > 0);
    if (kind < 12)
        for (uint64_t i = start; i < start + length; i++)
            model[i] = kind < 9 ? value : 0;
}

TEST(upper_is_an_array)
{
    struct chance r = { 51 };

    for (int round = 0; round < 12; round++) {
        uint64_t *model = grab(2 * DISK * sizeof *model);
        struct rig g;

        rig_make(&g, DISK, round % 2, chance_below(&r, 3) * 100);
        for (uint64_t i = 0; i < DISK; i++)
            model[i] = UNMAPPED;
        for (uint64_t i = 1; i < 1500; i++) {
            step(&g, &r, model, i);
            if (i % 300 == 0) {
                rig_flush(&g);
                rig_reopen(&g);
                SAME(rig_facts(&g).empty + rig_facts(&g).dangling, 0);
            }
            if (i % 20 == 0) {
                rig_read(&g, 0, DISK, model + DISK);
                SAME(memcmp(model, model + DISK, DISK * sizeof *model), 0);
            }
        }
        rig_free(&g);
        free(model);
    }
}
