/* SPDX-License-Identifier: Apache-2.0 */
/* presence - a guarded file that rots, is cut, and is emptied by others. */

#include "presence.h"
#include "bytes.h"
#include "check.h"

#define UNIT 4096
#define SIZE (9 * UNIT + 123)
#define UNITS 10
#define SEED 77

struct guarded {
    uint8_t plain[SIZE];
    uint32_t sums[UNITS];
    struct obd_presence p;
    int fd;
    int spare;
};

static void
guarded_make(struct guarded *g)
{
    struct chance r = { 5 };

    memset(g, 0, sizeof *g);
    for (size_t i = 0; i < SIZE; i++)
        g->plain[i] = (uint8_t)chance_next(&r);
    g->fd = file_of(g->plain, SIZE);
    g->spare = file_of(g->plain, 0);
    obd_presence_sums(SEED, 0, g->plain, SIZE, g->sums);
    SAME(obd_presence_guard(&g->p, SEED, g->spare), OBD_BAD_ARGUMENT);
    SAME(obd_presence_begin(&g->p, SIZE, 12), OBD_OK);
    SAME(obd_presence_guard(&g->p, SEED, g->spare), OBD_OK);
    SAME(obd_presence_guard(&g->p, SEED, g->spare), OBD_BAD_ARGUMENT);
}

static void
guarded_free(struct guarded *g)
{
    obd_presence_end(&g->p);
    close(g->fd);
    close(g->spare);
}

static int
get(struct guarded *g, uint64_t offset, size_t size)
{
    uint8_t *buf = grab(size);
    struct obd_fault f;
    int status = obd_presence_read(&g->p, g->fd, offset, buf, size, &f);

    if (status == OBD_OK)
        SAME(memcmp(buf, g->plain + offset, size), 0);
    free(buf);
    return status;
}

static void
put(int fd, size_t offset, const void *data, size_t size)
{
    SAME(pwrite(fd, data, size, (off_t)offset), (ssize_t)size);
}

TEST(presence_reads_around_every_edge)
{
    struct guarded g;

    guarded_make(&g);
    SAME(get(&g, 0, 1), OBD_ABSENT);
    obd_presence_adopt(&g.p, 0, g.sums, UNITS, false);
    for (size_t a = 0; a <= SIZE; a += UNIT)
        for (size_t b = a; b <= SIZE + UNIT; b += UNIT)
            for (size_t k = 0; k < 9; k++) {
                size_t from = a + k / 3 - (a > 0);
                size_t to = b + k % 3 - (b > 0);

                to = to < SIZE ? to : SIZE;
                if (from <= to)
                    SAME(get(&g, from, to - from), OBD_OK);
            }
    guarded_free(&g);
}

/* Whatever is in a unit that was damaged, nobody gets it. */
TEST(presence_forgets_what_has_changed)
{
    struct guarded g;
    uint8_t byte;

    guarded_make(&g);
    for (size_t at = 0; at < SIZE; at += 1000) {
        obd_presence_adopt(&g.p, 0, g.sums, UNITS, false);
        byte = g.plain[at] ^ 0x10;
        put(g.fd, at, &byte, 1);
        SAME(get(&g, 0, SIZE), OBD_ABSENT);
        assert(!obd_presence_here(&g.p, at, 1));
        SAME(get(&g, at / UNIT * UNIT, 1), OBD_ABSENT);
        if (at >= UNIT)
            SAME(get(&g, 0, at / UNIT * UNIT), OBD_OK);
        put(g.fd, at, g.plain + at, 1);
        obd_presence_adopt(&g.p, at / UNIT, g.sums + at / UNIT, 1, false);
        SAME(get(&g, 0, SIZE), OBD_OK);
    }
    guarded_free(&g);
}

TEST(presence_takes_no_unit_for_another)
{
    struct guarded g;
    uint8_t zeros[UNIT] = { 0 };

    guarded_make(&g);
    obd_presence_adopt(&g.p, 0, g.sums, UNITS, false);
    put(g.fd, 0, g.plain + UNIT, UNIT);
    SAME(get(&g, 0, 10), OBD_ABSENT);
    put(g.fd, 3 * UNIT, zeros, UNIT);
    SAME(get(&g, 3 * UNIT, 10), OBD_ABSENT);
    SAME(ftruncate(g.fd, 5 * UNIT + 10), 0);
    SAME(get(&g, 5 * UNIT, UNIT), OBD_ABSENT);
    SAME(get(&g, 4 * UNIT, UNIT), OBD_OK);
    SAME(get(&g, 8 * UNIT, UNIT), OBD_ABSENT);
    guarded_free(&g);
}

TEST(presence_lends_units)
{
    struct guarded g;

    guarded_make(&g);
    for (size_t u = 0; u < UNITS; u += 2)
        put(g.spare, u * UNIT, g.plain + u * UNIT,
            (size_t)obd_min(UNIT, SIZE - u * UNIT));
    SAME(ftruncate(g.spare, SIZE), 0);
    for (size_t u = 0; u < UNITS; u++)
        obd_presence_adopt(&g.p, u, g.sums + u, 1, u % 2 == 0);
    SAME(ftruncate(g.fd, 0), 0);
    SAME(get(&g, 2 * UNIT + 5, UNIT - 5), OBD_OK);
    SAME(get(&g, 2 * UNIT + 5, UNIT), OBD_ABSENT);
    put(g.fd, 0, g.plain, SIZE);
    obd_presence_adopt(&g.p, 3, g.sums + 3, 1, false);
    SAME(get(&g, 5, SIZE - 10), OBD_OK);
    guarded_free(&g);
}

TEST(presence_remembers_use)
{
    struct guarded g;
    uint8_t used[2] = { 0 };

    guarded_make(&g);
    obd_presence_take_used(&g.p, used, 2);
    SAME(used[0], 0);
    obd_presence_adopt(&g.p, 0, g.sums, UNITS, false);
    SAME(get(&g, 5, 5), OBD_OK);
    obd_presence_take_used(&g.p, used, 2);
    SAME(used[0], 1);
    used[0] = 0;
    obd_presence_take_used(&g.p, used, 2);
    SAME(used[0], 0);
    /* A sum of 0 says nothing. */
    obd_presence_forget(&g.p, 0, SIZE);
    obd_presence_adopt(&g.p, 0, (uint32_t[]){ 0, g.sums[1] }, 2, false);
    assert(!obd_presence_here(&g.p, 0, 1) && obd_presence_here(&g.p, UNIT, 1));
    guarded_free(&g);
}
