/* SPDX-License-Identifier: Apache-2.0 */
/* device - stacks against the flat disk: reads, extents, ranges, threads. */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>

#include "scratch.h"
#include "stacks.h"

#define THREADS 8

/* A read somewhere, of any length, in a buffer that just fits. */
static void
read_once(const struct stack *s, struct chance *r)
{
    uint64_t offset = chance_below(r, s->size + 1), left = s->size - offset;
    size_t size = chance_below(r, 8) ? chance_below(r, 9000)
                                     : chance_below(r, 200000);
    struct obd_fault f;

    size = size < left ? size : (size_t)left;
    uint8_t *buf = grab(size);

    SAME(obd_device_read(s->device, offset, buf, size, &f), OBD_OK);
    SAME(memcmp(buf, s->flat + offset, size), 0);
    free(buf);
}

TEST(device_reads_as_the_flat_disk)
{
    struct chance r = { 11 };
    struct obd_fault f;

    for (int round = 0; round < 40; round++) {
        struct stack s;

        stack_make(&s, &r);
        for (int i = 0; i < 100; i++)
            read_once(&s, &r);
        uint8_t *all = grab(s.size);

        SAME(obd_device_read(s.device, 0, all, s.size, &f), OBD_OK);
        SAME(memcmp(all, s.flat, s.size), 0);
        free(all);
        for (size_t i = 0; i < s.nlayers; i++)
            SAME(obd_blob_check(s.blobs[i], 0, UINT64_MAX, &f), OBD_OK);
        stack_free(&s);
    }
}

TEST(device_refuses_outside)
{
    struct chance r = { 12 };
    struct stack s;
    struct obd_fault f;
    struct obd_extent e;
    struct obd_range range;
    uint8_t buf[16];
    size_t n;

    stack_make(&s, &r);
    uint64_t places[] = { s.size - 15, s.size, s.size + 1, UINT64_MAX - 15,
                          UINT64_MAX };

    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        SAME(obd_device_read(s.device, places[i], buf, 16, &f),
             OBD_OUT_OF_RANGE);
        SAME(f.got, s.size);
        SAME(obd_device_extents(s.device, places[i], 16, &e, 1, &n, &f),
             OBD_OUT_OF_RANGE);
        SAME(obd_device_ranges(s.device, places[i], 16, 0, &range, 1, &n, &f),
             OBD_OUT_OF_RANGE);
        SAME(obd_blob_pread(s.blobs[0], places[i] | UINT64_C(1) << 40, buf,
                            16, &f), OBD_OUT_OF_RANGE);
    }
    SAME(obd_device_read(s.device, s.size, buf, 0, &f), OBD_OK);
    SAME(obd_device_read(s.device, s.size - 16, buf, 16, &f), OBD_OK);
    stack_free(&s);
}

/* What the extents of [offset, offset + size) say, sector by sector. */
static void
same_extents(const struct stack *s, uint64_t offset, uint64_t size, size_t cap)
{
    struct obd_extent *e = grab(cap * sizeof *e);
    uint64_t at = offset;
    struct obd_fault f;
    size_t n;

    while (at < offset + size) {
        SAME(obd_device_extents(s->device, at, offset + size - at, e, cap, &n,
                                &f), OBD_OK);
        assert(n > 0 && n <= cap);
        for (size_t i = 0; i < n; i++) {
            SAME(e[i].offset, at);
            assert(e[i].size > 0);
            /* At the cut between two calls neighbours may be alike. */
            assert(i == 0 || e[i].layer != e[i - 1].layer
                   || e[i].flags != e[i - 1].flags);
            for (; at < e[i].offset + e[i].size; at++) {
                uint8_t owner = s->owner[at / 512];
                bool zero = s->zero[at / 512];

                SAME(e[i].layer, owner ? owner - 1u : OBD_NO_LAYER);
                SAME(e[i].flags, OBD_EXTENT_PRESENT
                     | (zero ? OBD_EXTENT_ZERO : OBD_EXTENT_DATA));
            }
        }
    }
    SAME(at, offset + size);
    free(e);
}

TEST(device_extents_are_exact)
{
    struct chance r = { 13 };

    for (int round = 0; round < 15; round++) {
        struct stack s;

        stack_make(&s, &r);
        same_extents(&s, 0, s.size, 4096);
        same_extents(&s, 0, s.size, 1);
        for (int i = 0; i < 10; i++) {
            uint64_t offset = chance_below(&r, s.size);

            same_extents(&s, offset, chance_below(&r, s.size - offset + 1),
                         1 + chance_below(&r, 5));
        }
        stack_free(&s);
    }
}

/* Bring in what a read misses, in whole units, until it succeeds. */
static size_t
read_with_fetches(struct stack *s, uint64_t offset, uint8_t *buf, size_t size)
{
    struct obd_fault f;
    size_t fetches = 0;
    int status;

    while ((status = obd_device_read(s->device, offset, buf, size, &f))
           == OBD_ABSENT) {
        uint64_t start = f.at & ~UINT64_C(4095);
        uint64_t end = (f.at + f.want + 4095) & ~UINT64_C(4095);

        obd_presence_mark(obd_blob_presence(s->blobs[f.layer]), start,
                          end - start);
        assert(obd_blob_present(s->blobs[f.layer], f.at, f.want));
        fetches++;
    }
    SAME(status, OBD_OK);
    return fetches;
}

/* Mark all that ranges says is absent; how many ranges that were. */
static size_t
fetch_ranges(struct stack *s, uint64_t offset, uint64_t size)
{
    struct obd_range ranges[4];
    struct obd_fault f;
    size_t n, all = 0;

    do {
        SAME(obd_device_ranges(s->device, offset, size, 1, ranges, 4, &n, &f),
             OBD_OK);
        for (size_t i = 0; i < n; i++) {
            uint64_t start = ranges[i].offset & ~UINT64_C(4095);
            uint64_t end = ranges[i].offset + ranges[i].size + 4095;

            obd_presence_mark(obd_blob_presence(s->blobs[ranges[i].layer]),
                              start, (end & ~UINT64_C(4095)) - start);
        }
        all += n;
    } while (n > 0);
    return all;
}

static void
nothing_here(struct stack *s)
{
    for (size_t i = 0; i < s->nlayers; i++)
        SAME(obd_presence_begin(obd_blob_presence(s->blobs[i]),
                                s->file_size[i], 12), OBD_OK);
}

TEST(device_says_what_is_absent)
{
    struct chance r = { 14 };

    for (int round = 0; round < 30; round++) {
        struct stack s;
        struct obd_fault f;

        stack_make(&s, &r);
        nothing_here(&s);
        for (int i = 0; i < 30; i++) {
            uint64_t offset = chance_below(&r, s.size);
            size_t size = (size_t)chance_below(&r, s.size - offset + 1);
            uint8_t *buf = grab(size);

            size = i < 20 && size > 5000 ? 5000 : size;
            if (round % 2)
                fetch_ranges(&s, offset, size);
            size_t fetches = read_with_fetches(&s, offset, buf, size);

            assert(round % 2 == 0 || fetches == 0);
            SAME(memcmp(buf, s.flat + offset, size), 0);
            SAME(obd_device_read(s.device, offset, buf, size, &f), OBD_OK);
            free(buf);
        }
        stack_free(&s);
    }
}

TEST(device_extents_know_presence)
{
    struct chance r = { 15 };

    for (int round = 0; round < 20; round++) {
        struct stack s;
        struct obd_extent e;
        struct obd_fault f;
        uint64_t at = 0;
        size_t n;

        stack_make(&s, &r);
        nothing_here(&s);
        fetch_ranges(&s, s.size / 3, 20000);
        while (at < s.size) {
            uint8_t *buf;
            int want;

            SAME(obd_device_extents(s.device, at, s.size - at, &e, 1, &n, &f),
                 OBD_OK);
            SAME(n, 1);
            want = e.flags & OBD_EXTENT_PRESENT ? OBD_OK : OBD_ABSENT;
            buf = grab(e.size);
            SAME(obd_device_read(s.device, at, buf, e.size, &f), want);
            free(buf);
            at += e.size;
        }
        SAME(at, s.size);
        stack_free(&s);
    }
}

TEST(device_says_when_a_file_was_cut)
{
    struct chance r = { 16 };

    for (int round = 0; round < 20; round++) {
        struct stack s;
        struct obd_fault f;
        size_t layer;

        stack_make(&s, &r);
        layer = chance_below(&r, s.nlayers);
        SAME(ftruncate(s.fds[layer], 100), 0);
        SAME(obd_blob_check(s.blobs[layer], 0, UINT64_MAX, &f), OBD_SHORT);
        uint8_t *all = grab(s.size);
        int status = obd_device_read(s.device, 0, all, s.size, &f);

        assert(status == OBD_OK || status == OBD_SHORT);
        if (status == OBD_SHORT)
            SAME(f.layer, layer);
        else
            SAME(memcmp(all, s.flat, s.size), 0);
        free(all);
        stack_free(&s);
    }
}

TEST(device_passes_errno_on)
{
    int fd = open("/", O_RDONLY | O_DIRECTORY);
    struct obd_blob *b = obd_blob_new_plain(fd, 0, 4096);
    struct obd_fault f;
    uint8_t buf[16];

    assert(b != NULL);
    SAME(obd_blob_pread(b, 0, buf, 16, &f), OBD_IO);
    SAME(f.got, EISDIR);
    obd_blob_free(b);
    close(fd);
}

TEST(device_says_which_block_is_bad)
{
    struct chance r = { 17 };

    for (int round = 0; round < 30; round++) {
        struct stack s;
        struct obd_fault f;
        uint8_t byte;

        stack_make(&s, &r);
        off_t at = (off_t)(700 + chance_below(&r, s.file_size[0] - 700));

        SAME(pread(s.fds[0], &byte, 1, at), 1);
        byte ^= 0x10;
        SAME(pwrite(s.fds[0], &byte, 1, at), 1);
        int status = obd_blob_check(s.blobs[0], 0, UINT64_MAX, &f);

        if (status != OBD_OK) {
            assert(status == OBD_BAD_CRC || status == OBD_BAD_BLOCK);
            assert(f.at <= (uint64_t)at);
            SAME(obd_blob_check(s.blobs[0], 0, f.block, &f), OBD_OK);
        }
        stack_free(&s);
    }
}

TEST(device_refuses_a_tag_without_a_blob)
{
    struct obd_segment s = entry(0, 1, 8, 0);
    struct obd_segmap *m;
    struct obd_blob *b = obd_blob_new_plain(0, 0, 8192);

    assert(b != NULL);
    s.hi |= UINT64_C(1) << OBD_TAG_SHIFT;
    m = obd_segmap_new(&s, 1);
    assert(m != NULL);
    assert(obd_device_new(&b, 1, m, NULL, 4096) == NULL);
    assert(obd_device_new(&b, 0, m, NULL, 4096) == NULL);
    obd_segmap_free(m);
    obd_blob_free(b);
}

struct reader {
    struct stack *s;
    struct chance chance;
    bool fetches;
    pthread_t thread;
};

static void *
read_many(void *arg)
{
    struct reader *me = arg;

    for (int i = 0; i < 150; i++) {
        if (me->fetches) {
            uint64_t at = chance_below(&me->chance, me->s->size - 5000);
            uint8_t buf[5000];

            read_with_fetches(me->s, at, buf, sizeof buf);
            SAME(memcmp(buf, me->s->flat + at, sizeof buf), 0);
        } else {
            read_once(me->s, &me->chance);
        }
    }
    return NULL;
}

static void
from_many_threads(struct chance *r, bool fetches)
{
    struct reader readers[THREADS];
    struct stack s;

    stack_make(&s, r);
    if (fetches)
        nothing_here(&s);
    for (size_t i = 0; i < THREADS; i++) {
        readers[i].s = &s;
        readers[i].fetches = fetches;
        readers[i].chance.state = chance_next(r);
        SAME(pthread_create(&readers[i].thread, NULL, read_many, &readers[i]),
             0);
    }
    for (size_t i = 0; i < THREADS; i++)
        SAME(pthread_join(readers[i].thread, NULL), 0);
    stack_free(&s);
}

/* Several at a time, so that threads go through each other's slots. */
static void *
hold_scratches(void *arg)
{
    struct obd_scratch *s[4];
    uint64_t me = (uint64_t)(uintptr_t)arg;

    for (int i = 0; i < 10000; i++) {
        for (size_t k = 0; k < 4; k++) {
            s[k] = obd_scratch_take();
            assert(s[k] != NULL);
            memcpy(s[k]->block, &me, sizeof me);
            s[k]->block[sizeof me] = (uint8_t)k;
        }
        for (size_t k = 0; k < 4; k++) {
            SAME(memcmp(s[k]->block, &me, sizeof me), 0);
            SAME(s[k]->block[sizeof me], k);
            obd_scratch_give(s[k]);
        }
    }
    return NULL;
}

/* What is lent to two at once gives wrong bytes only now and then. */
TEST(scratch_has_one_holder)
{
    pthread_t threads[THREADS];

    for (size_t i = 0; i < THREADS; i++)
        SAME(pthread_create(&threads[i], NULL, hold_scratches,
                            (void *)(uintptr_t)(1000 + i)), 0);
    for (size_t i = 0; i < THREADS; i++)
        SAME(pthread_join(threads[i], NULL), 0);
    obd_scratch_drain();
}

TEST(device_threads_read_one_device)
{
    struct chance r = { 18 };

    for (int round = 0; round < 4; round++)
        from_many_threads(&r, false);
}

TEST(device_threads_read_while_bytes_come_in)
{
    struct chance r = { 19 };

    for (int round = 0; round < 4; round++)
        from_many_threads(&r, true);
}
