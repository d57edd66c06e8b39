/* SPDX-License-Identifier: Apache-2.0 */
/* upper - from many threads: writers, readers, flushes, new index files. */

#include "record.h"
#include "uppers.h"

#define WRITERS 4
#define READERS 2
#define BLOCK 8                 /* sectors that are written with one stamp */
#define BLOCKS 24               /* of each writer */
#define REGION (BLOCK * BLOCKS)
#define DISK (WRITERS * REGION)
#define STEPS 400

/* A stamp says for which block of the disk it was made, and when. */
static uint64_t
stamp(uint64_t block, uint64_t when)
{
    return (block + 1) << 32 | when;
}

struct actor {
    struct rig *rig;
    uint64_t number;
    struct chance chance;
    _Atomic bool *over;
    uint64_t values[REGION];    /* a writer's model of its region */
    pthread_t thread;
};

static void
check_region(struct actor *me)
{
    uint64_t found[REGION];

    rig_read(me->rig, me->number * REGION, REGION, found);
    SAME(memcmp(found, me->values, sizeof found), 0);
}

static void
write_once(struct actor *me, uint64_t when)
{
    uint64_t block = chance_below(&me->chance, BLOCKS);
    uint64_t from = chance_below(&me->chance, BLOCK);
    uint64_t length = 1 + chance_below(&me->chance, BLOCK - from);
    uint64_t start = block * BLOCK + from;
    bool zero = chance_below(&me->chance, 5) == 0;
    uint64_t value = stamp(me->number * BLOCKS + block, when);
    struct obd_fault f;

    if (zero)
        SAME(obd_upper_zero(me->rig->upper, me->number * REGION + start,
                            length, &f), OBD_OK);
    else
        SAME(rig_write(me->rig, me->number * REGION + start, length, value),
             OBD_OK);
    for (uint64_t i = start; i < start + length; i++)
        me->values[i] = zero ? 0 : value;
}

static void *
writer(void *arg)
{
    struct actor *me = arg;

    for (uint64_t i = 0; i < REGION; i++)
        me->values[i] = UNMAPPED;
    for (uint64_t i = 1; i < STEPS; i++) {
        write_once(me, i);
        if (i % 8 == 0)
            check_region(me);
        if (chance_below(&me->chance, 4) == 0)
            rig_flush(me->rig);
    }
    rig_flush(me->rig);
    return NULL;
}

/* Whatever a reader finds was written for that block. */
static void *
reader(void *arg)
{
    struct actor *me = arg;

    while (!*me->over) {
        uint64_t found[64], start = chance_below(&me->chance, DISK - 64);

        rig_read(me->rig, start, 64, found);
        for (uint64_t i = 0; i < 64; i++)
            if (found[i] != 0 && found[i] != UNMAPPED)
                SAME(found[i] >> 32, (start + i) / BLOCK + 1);
    }
    return NULL;
}

static void *
flusher(void *arg)
{
    struct actor *me = arg;

    while (!*me->over) {
        struct obd_upper_facts facts;

        rig_flush(me->rig);
        obd_upper_facts(me->rig->upper, &facts);
        assert(facts.unused <= facts.data_end);
    }
    return NULL;
}

static void *
replacer(void *arg)
{
    struct actor *me = arg;
    uint8_t header[HEADER] = { 0 };
    struct obd_fault f;

    while (!*me->over) {
        int next = file_of(header, sizeof header);
        bool done = chance_below(&me->chance, 4) > 0;

        SAME(obd_upper_index_begin(me->rig->upper, next, &f), OBD_OK);
        if (done) {
            close(me->rig->index_fd);
            me->rig->index_fd = next;
        } else {
            close(next);
        }
        obd_upper_index_end(me->rig->upper, done);
        usleep(200);
    }
    return NULL;
}

static void
start(struct actor *a, struct rig *g, struct chance *r, _Atomic bool *over,
      void *(*run)(void *))
{
    a->rig = g;
    a->over = over;
    a->chance.state = chance_next(r);
    SAME(pthread_create(&a->thread, NULL, run, a), 0);
}

static void
all_at_once(bool in_place, uint64_t allowance, uint64_t limit,
            uint64_t journal, uint64_t seed)
{
    static struct actor actors[WRITERS + READERS + 2];
    struct chance r = { seed };
    _Atomic bool over = false;
    struct rig g;

    rig_make(&g, DISK, in_place, allowance);
    if (limit > 0) {
        g.setup.data_limit = limit;
        rig_reopen(&g);
        SAME(rig_write(&g, 0, DISK, UNMAPPED), OBD_OK);
    }
    g.torn_reads = in_place;
    g.read_us = 200;
    if (journal)
        rig_journal(&g, journal);
    for (size_t i = 0; i < WRITERS + READERS + 2; i++) {
        actors[i].number = i;
        start(&actors[i], &g, &r, &over,
              i < WRITERS ? writer : i < WRITERS + READERS ? reader
              : i == WRITERS + READERS ? flusher : replacer);
    }
    for (size_t i = 0; i < WRITERS + READERS + 2; i++) {
        if (i == WRITERS)
            over = true;
        SAME(pthread_join(actors[i].thread, NULL), 0);
    }
    g.torn_reads = false;
    g.read_us = 0;
    for (size_t i = 0; i < WRITERS; i++)
        check_region(&actors[i]);
    g.setup.index_fd = g.index_fd;
    rig_reopen(&g);
    for (size_t i = 0; i < WRITERS; i++)
        check_region(&actors[i]);
    if (limit > 0)
        assert(file_size(g.data_fd) <= limit * SECTOR);
    rig_free(&g);
}

TEST(upper_threads_append)
{
    for (uint64_t seed = 1; seed < 4; seed++)
        all_at_once(false, 0, 0, 0, seed);
}

TEST(upper_threads_append_with_an_allowance)
{
    all_at_once(false, 300, 0, 0, 9);
}

/* A disk without a sector to spare; an eighth of the room is for writing over. */
TEST(upper_threads_on_a_full_disk)
{
    uint64_t sectors = HEADER / SECTOR + DISK * 8 / 7 + 1;

    for (uint64_t seed = 1; seed < 3; seed++) {
        all_at_once(false, 1000, sectors, 0, seed);
        all_at_once(false, 1000, sectors, 1 << 16, seed);
    }
}

TEST(upper_threads_append_with_a_journal)
{
    for (uint64_t seed = 1; seed < 3; seed++)
        all_at_once(false, 0, 0, 1 << 16, seed);
}

TEST(upper_threads_in_place)
{
    for (uint64_t seed = 1; seed < 3; seed++)
        all_at_once(true, 0, 0, 0, seed);
}

/* ---- Flushes ---- */

#define FLUSHERS 8
#define TIMES 25

/* Whoever is first must not be done before the others begin. */
static pthread_barrier_t all_are_here;

static void *
write_and_flush(void *arg)
{
    struct actor *me = arg;

    pthread_barrier_wait(&all_are_here);
    for (uint64_t i = 0; i < TIMES; i++) {
        struct obd_segment s;
        uint64_t size;

        SAME(rig_write(me->rig, me->number * TIMES + i, 1, 1 + i), OBD_OK);
        rig_flush(me->rig);
        /* Its record is in the file now. */
        bool found = false;

        size = file_size(me->rig->index_fd);
        for (uint64_t at = HEADER; at < size; at += OBD_RECORD_SIZE) {
            SAME(pread(me->rig->index_fd, &s, sizeof s, (off_t)at), sizeof s);
            found = found || obd_start(&s) == me->number * TIMES + i;
        }
        assert(found);
    }
    return NULL;
}

TEST(upper_threads_share_flushes)
{
    static struct actor actors[FLUSHERS];
    struct obd_upper_facts facts;
    struct chance r = { 7 };
    _Atomic bool over = false;
    struct rig g;

    SAME(pthread_barrier_init(&all_are_here, NULL, FLUSHERS), 0);
    rig_make(&g, FLUSHERS * TIMES, false, 0);
    g.sync_us = 500;
    for (size_t i = 0; i < FLUSHERS; i++) {
        actors[i].number = i;
        start(&actors[i], &g, &r, &over, write_and_flush);
    }
    for (size_t i = 0; i < FLUSHERS; i++)
        SAME(pthread_join(actors[i].thread, NULL), 0);
    obd_upper_facts(g.upper, &facts);
    SAME(facts.records, FLUSHERS * TIMES);
    assert(facts.flushes >= TIMES);
    assert(facts.flushes <= FLUSHERS * TIMES / 2);
    pthread_barrier_destroy(&all_are_here);
    rig_free(&g);
}
