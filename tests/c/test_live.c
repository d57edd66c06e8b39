/* SPDX-License-Identifier: Apache-2.0 */
/* live - an index that changes, against an array with an element a sector. */

#include "check.h"
#include "live.h"

#define SECTORS 6000

/* What each sector has: 0 nothing, 1 zeros, else its moffset. */
struct model {
    uint64_t at[SECTORS];
    uint64_t hidden;            /* sum over hidden sectors of their moffset */
};

static void
on_hidden(void *context, uint64_t moffset, uint64_t length)
{
    struct model *m = context;

    for (uint64_t i = 0; i < length; i++)
        m->hidden -= moffset + i;
}

static void
model_put(struct model *m, uint64_t start, uint64_t end, uint64_t moffset,
          bool zeroed, bool gone)
{
    for (uint64_t i = start; i < end; i++) {
        if (m->at[i] > 1)
            m->hidden += m->at[i];
        m->at[i] = gone ? 0 : zeroed ? 1 : moffset + (i - start);
    }
}

/* The whole index, or what lies in a range, is what the model has there. */
static void
same(const struct obd_live *live, const struct model *m, uint64_t start,
     uint64_t end, size_t cap)
{
    struct obd_segment *found = grab(cap * sizeof *found);
    uint64_t at = start;

    while (at < end) {
        uint64_t upto;
        size_t n = obd_live_collect(live, at, end, found, cap, &upto);

        assert(n <= cap && upto <= end && (upto == end || n == cap));
        for (size_t i = 0; i < n; i++) {
            for (; at < obd_start(&found[i]); at++)
                SAME(m->at[at], 0);
            SAME(obd_start(&found[i]), at);
            assert(obd_end(&found[i]) <= upto);
            for (; at < obd_end(&found[i]); at++)
                SAME(m->at[at], obd_zeroed(&found[i]) ? 1
                     : obd_moffset(&found[i]) + at - obd_start(&found[i]));
        }
        for (; at < upto; at++)
            SAME(m->at[at], 0);
    }
    free(found);
}

static void
change(struct obd_live *live, struct model *m, struct chance *r,
       uint64_t longest)
{
    uint64_t start = chance_below(r, SECTORS), end;
    uint64_t kind = chance_below(r, 8), moffset = 2 + chance_below(r, 900);

    end = start + 1 + chance_below(r, longest);
    end = end < SECTORS ? end : SECTORS;
    /* Often what continues a neighbour, on both sides of it. */
    if (kind < 4)
        moffset = 100000 + start;
    if (kind == 7)
        SAME(obd_live_remove(live, start, end, on_hidden, m), OBD_OK);
    else
        SAME(obd_live_insert(live, entry(start, end - start, moffset,
                                         kind == 6), on_hidden, m), OBD_OK);
    model_put(m, start, end, moffset, kind == 6, kind == 7);
    SAME(m->hidden, 0);
}

TEST(live_is_an_array)
{
    struct chance r = { 31 };

    for (int round = 0; round < 6; round++) {
        struct obd_live *live = obd_live_new();
        struct model *m = calloc(1, sizeof *m);
        uint64_t longest = round < 3 ? 3 : round < 5 ? 40 : 3000;

        assert(live != NULL && m != NULL);
        for (int i = 0; i < 6000; i++) {
            change(live, m, &r, longest);
            if (i % 50 == 0) {
                uint64_t start = chance_below(&r, SECTORS);

                assert(obd_live_check(live));
                same(live, m, start, start + chance_below(&r, SECTORS - start),
                     1 + chance_below(&r, 40));
            }
        }
        assert(obd_live_check(live));
        same(live, m, 0, SECTORS, 7);
        same(live, m, 0, SECTORS, SECTORS);
        SAME(obd_live_remove(live, 0, SECTORS, NULL, NULL), OBD_OK);
        SAME(obd_live_count(live), 0);
        SAME(obd_live_stored(live), 0);
        assert(obd_live_check(live));
        obd_live_free(live);
        free(m);
    }
}

/* In order, against the order, and from both ends: leaves split everywhere. */
TEST(live_grows_in_any_order)
{
    for (int order = 0; order < 3; order++) {
        struct obd_live *live = obd_live_new();
        uint64_t n = 5000;

        assert(live != NULL);
        for (uint64_t i = 0; i < n; i++) {
            uint64_t at = order == 0 ? i : order == 1 ? n - 1 - i
                          : i % 2 ? i / 2 : n - 1 - i / 2;

            SAME(obd_live_insert(live, entry(2 * at, 1, 8 + 3 * at, 0), NULL,
                                 NULL), OBD_OK);
        }
        assert(obd_live_check(live));
        SAME(obd_live_count(live), n);
        SAME(obd_live_stored(live), n);
        assert(obd_live_memory(live) < 64 * n + 20000);
        for (uint64_t i = 0; i < n; i++) {
            struct obd_segment s;
            uint64_t upto;

            SAME(obd_live_collect(live, 2 * i, 2 * i + 1, &s, 1, &upto), 1);
            SAME(obd_moffset(&s), 8 + 3 * i);
        }
        obd_live_free(live);
    }
}

/* A segment holds no more than its 14 bits can say. */
TEST(live_joins_up_to_the_longest)
{
    struct obd_live *live = obd_live_new();
    uint64_t at = 0;

    assert(live != NULL);
    for (; at < 3 * OBD_MAX_LENGTH + 5; at++)
        SAME(obd_live_insert(live, entry(at, 1, 8 + at, 0), NULL, NULL),
             OBD_OK);
    SAME(obd_live_count(live), 4);
    SAME(obd_live_stored(live), at);
    assert(obd_live_check(live));
    obd_live_free(live);
}
