/* SPDX-License-Identifier: Apache-2.0 */
/* device - with an upper over a random stack, against the flat disk. */

#include "stacks.h"
#include "uppers.h"

#define THREADS 4

/* A stack, an upper over it, and what both must read as. */
struct disk {
    struct stack stack;
    struct rig rig;
    struct obd_device *device;
    uint64_t size;
};

static void
disk_make(struct disk *d, struct chance *r, bool in_place)
{
    stack_make(&d->stack, r);
    d->size = d->stack.size / SECTOR * SECTOR;
    rig_make(&d->rig, d->size / SECTOR, in_place, 64);
    d->device = obd_device_new(d->stack.blobs, d->stack.nlayers, d->stack.map,
                               d->rig.upper, d->size);
    assert(d->device != NULL);
}

static void
disk_reopen(struct disk *d)
{
    rig_flush(&d->rig);
    obd_device_free(d->device);
    rig_reopen(&d->rig);
    d->device = obd_device_new(d->stack.blobs, d->stack.nlayers, d->stack.map,
                               d->rig.upper, d->size);
    assert(d->device != NULL);
}

static void
disk_free(struct disk *d)
{
    obd_device_free(d->device);
    rig_free(&d->rig);
    stack_free(&d->stack);
}

/* Whole sectors of the range are the upper's now; so are edges of writes. */
static void
own(struct disk *d, uint64_t offset, uint64_t size, bool zero, bool edges)
{
    uint64_t start = offset / SECTOR, end = (offset + size) / SECTOR;

    if (edges)
        end = (offset + size + SECTOR - 1) / SECTOR;
    else
        start = (offset + SECTOR - 1) / SECTOR;
    for (uint64_t i = start; i < end; i++) {
        bool whole = offset <= i * SECTOR
                     && (i + 1) * SECTOR <= offset + size;

        d->stack.owner[i] = (uint8_t)(d->stack.nlayers + 1);
        d->stack.zero[i] = zero && whole;
    }
}

static void
change(struct disk *d, struct chance *r)
{
    uint64_t offset = chance_below(r, d->size), kind = chance_below(r, 4);
    uint64_t most = chance_below(r, 6) ? 3000 : 60000;
    uint64_t size = chance_below(r, most), start, end;
    uint8_t *buf;
    struct obd_fault f;

    size = size < d->size - offset ? size : d->size - offset;
    if (chance_below(r, 2)) {
        offset = offset / SECTOR * SECTOR;
        size = size / SECTOR * SECTOR;
    }
    if (size == 0)
        return;
    buf = grab(size);
    chance_fill(r, buf, size);
    if (kind < 2) {
        SAME(obd_device_write(d->device, offset, buf, size, &f), OBD_OK);
        memcpy(d->stack.flat + offset, buf, size);
        own(d, offset, size, false, true);
    } else if (kind == 2) {
        SAME(obd_device_zero(d->device, offset, size, &f), OBD_OK);
        memset(d->stack.flat + offset, 0, size);
        own(d, offset, size, true, true);
    } else {
        SAME(obd_device_discard(d->device, offset, size, &f), OBD_OK);
        start = (offset + SECTOR - 1) / SECTOR * SECTOR;
        end = (offset + size) / SECTOR * SECTOR;
        if (start < end)
            memset(d->stack.flat + start, 0, end - start);
        own(d, offset, size, true, false);
    }
    free(buf);
}

static void
same(const struct disk *d, struct chance *r)
{
    uint64_t offset = chance_below(r, d->size);
    size_t size = (size_t)chance_below(r, d->size - offset + 1);
    uint8_t *buf = grab(size);
    struct obd_fault f;

    SAME(obd_device_read(d->device, offset, buf, size, &f), OBD_OK);
    SAME(memcmp(buf, d->stack.flat + offset, size), 0);
    free(buf);
}

/* Every sector's layer, and whether it is zeros, by extents of at most cap. */
static void
same_extents(const struct disk *d, size_t cap)
{
    struct obd_extent *e = grab(cap * sizeof *e);
    uint64_t at = 0;
    struct obd_fault f;
    size_t n;

    while (at < d->size) {
        SAME(obd_device_extents(d->device, at, d->size - at, e, cap, &n, &f),
             OBD_OK);
        assert(n > 0 && n <= cap);
        for (size_t i = 0; i < n; i++) {
            SAME(e[i].offset, at);
            assert(e[i].size > 0 && e[i].offset + e[i].size <= d->size);
            for (; at < e[i].offset + e[i].size; at += SECTOR) {
                uint8_t owner = d->stack.owner[at / SECTOR];
                bool zero = d->stack.zero[at / SECTOR];

                SAME(e[i].layer, owner ? owner - 1u : OBD_NO_LAYER);
                SAME(e[i].flags, OBD_EXTENT_PRESENT
                     | (zero ? OBD_EXTENT_ZERO : OBD_EXTENT_DATA));
            }
        }
    }
    free(e);
}

TEST(device_upper_is_the_flat_disk)
{
    struct chance r = { 61 };

    for (int round = 0; round < 16; round++) {
        struct disk d;

        disk_make(&d, &r, round % 2);
        for (int i = 0; i < 400; i++) {
            change(&d, &r);
            if (i % 10 == 0)
                same(&d, &r);
            if (chance_below(&r, 20) == 0)
                rig_flush(&d.rig);
            if (i % 130 == 129)
                disk_reopen(&d);
        }
        same_extents(&d, 1 + chance_below(&r, 100));
        disk_reopen(&d);
        same_extents(&d, 1000);
        same(&d, &r);
        disk_free(&d);
    }
}

TEST(device_upper_refuses_outside)
{
    struct chance r = { 62 };
    struct obd_fault f;
    struct disk d;
    uint8_t buf[SECTOR] = { 0 };

    disk_make(&d, &r, false);
    uint64_t places[] = { d.size - SECTOR + 1, d.size, UINT64_MAX - 15,
                          UINT64_MAX };

    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        SAME(obd_device_write(d.device, places[i], buf, SECTOR, &f),
             OBD_OUT_OF_RANGE);
        SAME(obd_device_zero(d.device, places[i], SECTOR, &f),
             OBD_OUT_OF_RANGE);
        SAME(obd_device_discard(d.device, places[i], SECTOR, &f),
             OBD_OUT_OF_RANGE);
    }
    SAME(obd_device_write(d.device, d.size, buf, 0, &f), OBD_OK);
    SAME(obd_device_zero(d.device, d.size, 0, &f), OBD_OK);
    SAME(obd_device_discard(d.device, d.size, 0, &f), OBD_OK);
    SAME(obd_device_write(d.stack.device, 0, buf, SECTOR, &f), OBD_READ_ONLY);
    SAME(obd_device_zero(d.stack.device, 0, 1, &f), OBD_READ_ONLY);
    SAME(obd_device_discard(d.stack.device, 0, 1, &f), OBD_READ_ONLY);
    disk_free(&d);
}

/* Part of a sector that is not on this machine: fetch it, then ask again. */
TEST(device_upper_says_what_a_write_needs)
{
    struct chance r = { 63 };
    struct disk d;
    struct obd_fault f;
    uint8_t buf[100];
    int absent = 0;

    disk_make(&d, &r, false);
    chance_fill(&r, buf, sizeof buf);
    for (size_t i = 0; i < d.stack.nlayers; i++)
        SAME(obd_presence_begin(obd_blob_presence(d.stack.blobs[i]),
                                d.stack.file_size[i], 12), OBD_OK);
    for (int i = 0; i < 200; i++) {
        uint64_t offset = chance_below(&r, d.size - 100);
        int status;

        while ((status = obd_device_write(d.device, offset, buf, 100, &f))
               == OBD_ABSENT) {
            uint64_t from = f.at & ~UINT64_C(4095);

            obd_presence_mark(obd_blob_presence(d.stack.blobs[f.layer]), from,
                              ((f.at + f.want + 4095) & ~UINT64_C(4095)) - from);
            absent++;
        }
        SAME(status, OBD_OK);
        memcpy(d.stack.flat + offset, buf, 100);
    }
    assert(absent > 0);
    for (size_t i = 0; i < d.stack.nlayers; i++)
        obd_presence_mark(obd_blob_presence(d.stack.blobs[i]), 0,
                          d.stack.file_size[i]);
    same(&d, &r);
    disk_free(&d);
}

/* ---- From many threads ---- */

struct actor {
    struct disk *disk;
    struct chance chance;
    uint64_t from;              /* bytes of the disk that are this one's */
    uint64_t to;
    pthread_t thread;
};

/* Writes of any alignment to neighbouring bytes: two threads share the sector
 * at each border, and each has its own bytes in it.
 */
static void *
act(void *arg)
{
    struct actor *me = arg;
    struct disk *d = me->disk;
    uint64_t room = me->to - me->from;
    uint8_t *buf = grab(5000), *found = grab(5000);
    struct obd_fault f;

    for (int i = 0; i < 300; i++) {
        uint64_t offset = chance_below(&me->chance, room);
        uint64_t size = 1 + chance_below(&me->chance, 4999);

        size = size < room - offset ? size : room - offset;
        offset = chance_below(&me->chance, 4) == 0 ? me->from
                                                   : me->from + offset;
        if (chance_below(&me->chance, 4) == 0)
            offset = me->to - size;
        chance_fill(&me->chance, buf, size);
        SAME(obd_device_write(d->device, offset, buf, size, &f), OBD_OK);
        memcpy(d->stack.flat + offset, buf, size);
        SAME(obd_device_read(d->device, offset, found, size, &f), OBD_OK);
        SAME(memcmp(found, buf, size), 0);
        if (i % 20 == 0)
            rig_flush(&d->rig);
    }
    free(buf);
    free(found);
    return NULL;
}

TEST(device_upper_threads_write_side_by_side)
{
    struct chance r = { 64 };

    for (int round = 0; round < 4; round++) {
        struct actor actors[THREADS];
        struct disk d;

        disk_make(&d, &r, round % 2);
        for (size_t i = 0; i < THREADS; i++) {
            actors[i].disk = &d;
            actors[i].chance.state = chance_next(&r);
            actors[i].from = i * (d.size / THREADS) + (i ? 100 : 0);
            actors[i].to = (i + 1) * (d.size / THREADS)
                           + (i + 1 < THREADS ? 100 : 0);
            SAME(pthread_create(&actors[i].thread, NULL, act, &actors[i]), 0);
        }
        for (size_t i = 0; i < THREADS; i++)
            SAME(pthread_join(actors[i].thread, NULL), 0);
        same(&d, &r);
        disk_reopen(&d);
        for (int i = 0; i < 10; i++)
            same(&d, &r);
        disk_free(&d);
    }
}
