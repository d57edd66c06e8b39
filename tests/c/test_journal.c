/* SPDX-License-Identifier: Apache-2.0 */
/* journal - one sync for a small flush, and what comes in which order. */

#include <errno.h>

#include "uppers.h"

#define DISK 4096
#define SIZE (1 << 16)

static void
checkpoint(struct rig *g)
{
    struct obd_fault f;

    SAME(obd_upper_checkpoint(g->upper, &f), OBD_OK);
}

static void
make(struct rig *g)
{
    rig_make(g, DISK, false, 0);
    rig_journal(g, SIZE);
    rig_did(g, "sS");
}

TEST(journal_takes_small_flushes)
{
    struct rig g;

    make(&g);
    SAME(rig_write(&g, 0, 8, 1), OBD_OK);
    rig_flush(&g);
    rig_did(&g, "wjJ");
    rig_flush(&g);
    rig_did(&g, "");
    SAME(rig_write(&g, 4, 8, 2), OBD_OK);
    SAME(rig_write(&g, 100, 1, 3), OBD_OK);
    rig_flush(&g);
    rig_did(&g, "wwjJ");
    SAME(rig_facts(&g).journaled, 3);
    SAME(rig_facts(&g).records, 0);
    checkpoint(&g);
    rig_did(&g, "sWSjJ");
    SAME(rig_facts(&g).journaled, 0);
    SAME(rig_facts(&g).records, 3);
    checkpoint(&g);
    rig_did(&g, "");
    rig_free(&g);
}

/* What is too much for an entry goes to the two files, and so does all that
 * is in the journal, before it.
 */
TEST(journal_leaves_large_flushes)
{
    struct rig g;

    make(&g);
    SAME(rig_write(&g, 0, 8, 1), OBD_OK);
    rig_flush(&g);
    SAME(rig_write(&g, 0, 257, 2), OBD_OK);
    rig_flush(&g);
    rig_did(&g, "wjJwsWWSjJ");
    SAME(rig_write(&g, 0, 257, 3), OBD_OK);
    rig_flush(&g);
    rig_did(&g, "wsWS");
    for (uint64_t i = 0; i < 65; i++)
        SAME(rig_write(&g, i, 1, 4 + i), OBD_OK);
    g.n = 0;
    rig_flush(&g);
    rig_did(&g, "sWSp");
    rig_reopen(&g);
    SAME(rig_read_one(&g, 64), 68);
    SAME(rig_read_one(&g, 65), 3);
    rig_free(&g);
}

TEST(journal_that_is_full_begins_again)
{
    struct rig g;

    make(&g);
    for (uint64_t i = 0; i < 500; i++) {
        SAME(rig_write(&g, i % 50 * 8, 1 + i % 8, 1 + i), OBD_OK);
        rig_flush(&g);
        assert(rig_facts(&g).journaled <= SIZE / 1024);
        assert(rig_facts(&g).journaled + rig_facts(&g).records > i);
        if (i % 37 == 0)
            rig_reopen(&g);
        SAME(rig_read_one(&g, i % 50 * 8), 1 + i);
    }
    /* Garbage was written over all the same. */
    assert(rig_facts(&g).data_end < 2000);
    rig_free(&g);
}

/* (c): until a checkpoint nothing is written over. */
TEST(journal_keeps_garbage)
{
    struct rig g;

    make(&g);
    SAME(rig_write(&g, 0, 100, 1), OBD_OK);
    checkpoint(&g);
    for (int i = 0; i < 9; i++) {
        SAME(rig_write(&g, 0, 8, 2), OBD_OK);
        rig_flush(&g);
        SAME(rig_facts(&g).unused, 0);
    }
    for (int i = 0; i < 3; i++)
        checkpoint(&g);
    SAME(rig_facts(&g).unused, 9 * 8);
    rig_free(&g);
}

static void
expect_old(struct rig *g)
{
    SAME(rig_read_one(g, 0), 1);
    SAME(rig_read_one(g, 1), UNMAPPED);
}

/* A write to it that fails is a matter for the two files, and it is void. */
TEST(journal_that_fails_is_given_up)
{
    struct rig g;

    for (int how = 0; how < 2; how++) {
        make(&g);
        SAME(rig_write(&g, 0, 1, 1), OBD_OK);
        rig_flush(&g);
        expect_old(&g);
        SAME(rig_write(&g, 1, 1, 2), OBD_OK);
        g.n = 0;
        g.failing = EIO;
        g.fails = how ? 'J' : 'j';
        struct obd_fault f;
        int status = obd_upper_flush(g.upper, &f);

        /* It cannot be made void where no sync works. */
        SAME(status, how ? OBD_IO : OBD_OK);
        rig_did(&g, how ? "jJsWWSjJtJ" : "jsWWSjtJ");
        g.fails = 0;
        SAME(obd_upper_flush(g.upper, &f), how ? OBD_IO : OBD_OK);
        if (how) {
            SAME(f.got, EIO);
        } else {
            SAME(rig_write(&g, 2, 1, 3), OBD_OK);
            rig_flush(&g);
            rig_did(&g, "wsWS");
            SAME(file_size(g.journal_fd), 0);
        }
        rig_free(&g);
    }
}

TEST(journal_is_wanted_by_who_flushes_little)
{
    struct rig g;
    struct obd_fault f;

    rig_make(&g, DISK, false, 0);
    obd_upper_free(g.upper);
    g.setup.patience = 3;
    g.upper = obd_upper_new(&g.setup, &g.io);
    SAME(obd_upper_start(g.upper, HEADER / SECTOR, &f), OBD_OK);
    for (uint64_t i = 0; i < 20; i++) {
        assert(obd_upper_wants_journal(g.upper) == (i >= 3 && i != 10));
        SAME(rig_write(&g, i, i == 9 ? 70 : 1, 1 + i), OBD_OK);
        for (uint64_t n = 0; i == 9 && n < 70; n++)
            SAME(rig_write(&g, n, 1, 1), OBD_OK);
        rig_flush(&g);
        if (i == 9)
            for (int n = 0; n < 3; n++)
                rig_flush(&g);
        if (i == 10)
            break;
    }
    SAME(obd_upper_end_journal(g.upper, 1, &f), OBD_OK);
    assert(!obd_upper_wants_journal(g.upper));
    rig_free(&g);
}
