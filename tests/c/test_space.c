/* SPDX-License-Identifier: Apache-2.0 */
/* space - no sector is given twice, and the log keeps to its bounds. */

#include "bytes.h"
#include "check.h"
#include "space.h"

#define LIMIT 4000

/* Who has what: a byte a sector. */
struct owners {
    bool used[LIMIT];
    uint64_t all;
};

static void
take(struct obd_space *s, struct owners *o, uint64_t want)
{
    uint64_t start, length;
    int status = obd_space_take(s, want, true, &start, &length);

    if (status == OBD_FULL) {
        SAME(o->all, LIMIT - 8);
        return;
    }
    SAME(status, OBD_OK);
    assert(length > 0 && length <= want);
    assert(start >= 8 && start + length <= s->end && s->end <= LIMIT);
    for (uint64_t i = start; i < start + length; i++) {
        assert(!o->used[i]);
        o->used[i] = true;
    }
    o->all += length;
}

static void
give(struct obd_space *s, struct owners *o, uint64_t start, uint64_t most)
{
    uint64_t end = start;

    while (end < LIMIT && end - start < most && o->used[end])
        o->used[end++] = false;
    o->all -= end - start;
    obd_space_give(s, start, end - start);
}

TEST(space_is_given_once)
{
    struct chance r = { 41 };

    for (int round = 0; round < 12; round++) {
        struct obd_space s;
        struct owners *o = calloc(1, sizeof *o);
        uint64_t allowance = chance_below(&r, 3) * chance_below(&r, 500);

        assert(o != NULL);
        SAME(obd_space_init(&s, 8, LIMIT, allowance), OBD_OK);
        for (int i = 0; i < 4000; i++) {
            if (chance_below(&r, 2))
                take(&s, o, 1 + chance_below(&r, i % 5 ? 9 : 300));
            else
                give(&s, o, 8 + chance_below(&r, LIMIT - 8),
                     1 + chance_below(&r, 60));
            SAME(obd_space_unused(&s), s.end - 8 - o->all);
            assert(obd_live_check(s.unused));
        }
        obd_space_clear(&s);
        free(o);
    }
}

TEST(space_uses_the_last_sector_when_full)
{
    struct obd_space s;
    uint64_t start, length;

    SAME(obd_space_init(&s, 8, 108, 1000), OBD_OK);
    SAME(obd_space_take(&s, 70, true, &start, &length), OBD_OK);
    SAME(length, 70);
    SAME(obd_space_take(&s, 70, true, &start, &length), OBD_OK);
    SAME(length, 30);
    SAME(obd_space_take(&s, 1, true, &start, &length), OBD_FULL);
    obd_space_give(&s, 20, 1);
    SAME(obd_space_take(&s, 70, true, &start, &length), OBD_OK);
    SAME(start, 20);
    SAME(length, 1);
    SAME(obd_space_take(&s, 1, true, &start, &length), OBD_FULL);
    obd_space_clear(&s);
}

/* Overwrites at random, for ever: the file stays at live data and the
 * allowance, and what one write takes.
 */
TEST(space_is_bounded)
{
    enum { LIVE = 2000, PIECE = 8 };
    static uint64_t places[LIVE / PIECE];
    struct chance r = { 42 };

    for (uint64_t allowance = 0; allowance <= 1000; allowance += 500) {
        struct obd_space s;

        SAME(obd_space_init(&s, 8, UINT64_MAX >> 8, allowance), OBD_OK);
        for (int i = 0; i < LIVE / PIECE; i++) {
            places[i] = s.end;
            s.end += PIECE;
        }
        for (int i = 0; i < 20000; i++) {
            uint64_t *at = &places[chance_below(&r, LIVE / PIECE)];
            uint64_t old = *at, length;

            SAME(obd_space_take(&s, PIECE, true, at, &length), OBD_OK);
            SAME(length, PIECE);
            obd_space_give(&s, old, PIECE);
        }
        assert(s.end <= 8 + LIVE + allowance + PIECE);
        obd_space_clear(&s);
    }
}
