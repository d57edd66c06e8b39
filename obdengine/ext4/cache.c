/* SPDX-License-Identifier: Apache-2.0 */

#include "cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

/* Pages in one write: the most that a layer's records hold is far more, and
 * longer runs were not faster.
 */
#define RUN 256

struct page {
    uint64_t number;
    uint32_t next;              /* in the same bucket */
    uint8_t held;               /* it has a page at all */
    uint8_t dirty;
    uint8_t used;               /* since the hand of the clock was here */
};

struct obd_cache {
    struct obd_disk *disk;
    uint32_t room;              /* pages */
    uint32_t taken;             /* of which were ever used */
    uint32_t hand;
    uint32_t mask;
    uint32_t *buckets;
    struct page *pages;
    uint8_t *bytes;
    uint8_t *run;
};

struct obd_cache *
obd_cache_new(struct obd_disk *disk, size_t size)
{
    struct obd_cache *c = calloc(1, sizeof *c);
    size_t room = size / OBD_PAGE < 64 ? 64 : size / OBD_PAGE;
    uint32_t buckets = 64;

    if (!c)
        return NULL;
    if (room > UINT32_MAX / 4)
        room = UINT32_MAX / 4;
    while (buckets < room)
        buckets *= 2;
    c->disk = disk;
    c->room = (uint32_t)room;
    c->mask = buckets - 1;
    c->buckets = malloc(buckets * sizeof *c->buckets);
    c->pages = calloc(room, sizeof *c->pages);
    c->bytes = malloc(room * OBD_PAGE);
    c->run = malloc(RUN * OBD_PAGE);
    if (!c->buckets || !c->pages || !c->bytes || !c->run) {
        obd_cache_free(c);
        return NULL;
    }
    memset(c->buckets, 0xff, buckets * sizeof *c->buckets);
    return c;
}

void
obd_cache_free(struct obd_cache *c)
{
    if (!c)
        return;
    free(c->buckets);
    free(c->pages);
    free(c->bytes);
    free(c->run);
    free(c);
}

/* -- the disk */

static int
disk_read(struct obd_disk *disk, uint64_t offset, uint8_t *buf, size_t size)
{
    struct obd_fault fault;

    if (offset >= disk->size)
        return EIO;
    if (size > disk->size - offset) {
        memset(buf + (disk->size - offset), 0, size - (disk->size - offset));
        size = disk->size - offset;
    }
    if (disk->read(disk->device, offset, buf, size, &fault) == OBD_OK)
        return 0;
    return disk->recover(disk->context, OBD_DISK_READ, offset, buf, size);
}

static int
disk_write(struct obd_disk *disk, uint64_t offset, const uint8_t *buf,
           size_t size)
{
    struct obd_fault fault;

    if (offset >= disk->size)
        return EIO;
    if (size > disk->size - offset)
        size = disk->size - offset;
    if (disk->write(disk->device, offset, buf, size, &fault) == OBD_OK)
        return 0;
    return disk->recover(disk->context, OBD_DISK_WRITE, offset,
                         (uint8_t *)(uintptr_t)buf, size);
}

static int
disk_discard(struct obd_disk *disk, uint64_t offset, uint64_t size)
{
    struct obd_fault fault;

    if (disk->discard(disk->device, offset, size, &fault) == OBD_OK)
        return 0;
    return disk->recover(disk->context, OBD_DISK_DISCARD, offset, NULL, size);
}

/* -- pages */

static uint32_t *
bucket_of(const struct obd_cache *c, uint64_t number)
{
    uint64_t h = number * UINT64_C(0x9e3779b97f4a7c15);

    return &c->buckets[(uint32_t)(h >> 40) & c->mask];
}

static uint8_t *
bytes_of(const struct obd_cache *c, uint32_t i)
{
    return c->bytes + (size_t)i * OBD_PAGE;
}

static uint32_t
find(const struct obd_cache *c, uint64_t number)
{
    uint32_t i = *bucket_of(c, number);

    while (i != NONE && c->pages[i].number != number)
        i = c->pages[i].next;
    return i;
}

static void
drop(struct obd_cache *c, uint32_t i)
{
    uint32_t *link = bucket_of(c, c->pages[i].number);

    while (*link != i)
        link = &c->pages[*link].next;
    *link = c->pages[i].next;
    c->pages[i].held = c->pages[i].dirty = 0;
}

/* A page for number, whose content is unspecified. */
static int
place(struct obd_cache *c, uint64_t number, uint32_t *at)
{
    uint32_t *bucket, i = 0;
    int error, flushed = 0;

    if (c->taken < c->room) {
        i = c->taken++;
    } else {
        for (;;) {
            struct page *p;

            i = c->hand;
            c->hand = c->hand + 1 == c->room ? 0 : c->hand + 1;
            p = &c->pages[i];
            if (!p->held)
                break;
            if (p->used) {
                p->used = 0;
                continue;
            }
            /* All at once: runs on the disk are long, and this is rare. */
            if (p->dirty && !flushed) {
                error = obd_cache_flush(c);
                if (error)
                    return error;
                flushed = 1;
            }
            drop(c, i);
            break;
        }
    }
    bucket = bucket_of(c, number);
    c->pages[i] = (struct page){ number, *bucket, 1, 0, 1 };
    *bucket = i;
    *at = i;
    return 0;
}

static int
load(struct obd_cache *c, uint64_t number, uint32_t *at)
{
    uint32_t i = find(c, number);
    int error;

    if (i == NONE) {
        error = place(c, number, &i);
        if (error)
            return error;
        error = disk_read(c->disk, number << OBD_PAGE_SHIFT, bytes_of(c, i),
                          OBD_PAGE);
        if (error) {
            drop(c, i);
            return error;
        }
    }
    c->pages[i].used = 1;
    *at = i;
    return 0;
}

/* The part of [offset, offset + size) that is in its first page. */
static size_t
first_part(uint64_t offset, size_t size)
{
    size_t rest = OBD_PAGE - (offset & (OBD_PAGE - 1));

    return size < rest ? size : rest;
}

int
obd_cache_read(struct obd_cache *c, uint64_t offset, void *buf, size_t size)
{
    uint8_t *to = buf;

    while (size) {
        size_t part = first_part(offset, size);
        uint32_t i;
        int error = load(c, offset >> OBD_PAGE_SHIFT, &i);

        if (error)
            return error;
        memcpy(to, bytes_of(c, i) + (offset & (OBD_PAGE - 1)), part);
        to += part;
        offset += part;
        size -= part;
    }
    return 0;
}

int
obd_cache_write(struct obd_cache *c, uint64_t offset, const void *buf,
                size_t size)
{
    const uint8_t *from = buf;

    while (size) {
        size_t part = first_part(offset, size);
        uint8_t *to;
        uint32_t i;
        int error = load(c, offset >> OBD_PAGE_SHIFT, &i);

        if (error)
            return error;
        to = bytes_of(c, i) + (offset & (OBD_PAGE - 1));
        if (memcmp(to, from, part) != 0) {
            memcpy(to, from, part);
            c->pages[i].dirty = 1;
        }
        from += part;
        offset += part;
        size -= part;
    }
    return 0;
}

struct dirty {
    uint64_t number;
    uint32_t page;
};

static int
by_number(const void *a, const void *b)
{
    const struct dirty *x = a, *y = b;

    return (x->number > y->number) - (x->number < y->number);
}

/* Write the n pages, sorted, from which nothing is missing between. */
static int
write_run(struct obd_cache *c, const struct dirty *d, size_t n)
{
    size_t i;
    int error;

    for (i = 0; i < n; i++)
        memcpy(c->run + i * OBD_PAGE, bytes_of(c, d[i].page), OBD_PAGE);
    error = disk_write(c->disk, d[0].number << OBD_PAGE_SHIFT, c->run,
                       n * OBD_PAGE);
    if (error)
        return error;
    for (i = 0; i < n; i++)
        c->pages[d[i].page].dirty = 0;
    return 0;
}

int
obd_cache_flush(struct obd_cache *c)
{
    struct dirty *all;
    size_t n = 0, start, end;
    uint32_t i;
    int error = 0;

    for (i = 0; i < c->taken; i++)
        n += c->pages[i].held && c->pages[i].dirty;
    if (!n)
        return 0;
    all = malloc(n * sizeof *all);
    if (!all)
        return ENOMEM;
    for (i = 0, n = 0; i < c->taken; i++) {
        if (c->pages[i].held && c->pages[i].dirty)
            all[n++] = (struct dirty){ c->pages[i].number, i };
    }
    qsort(all, n, sizeof *all, by_number);
    for (start = 0; start < n && !error; start = end) {
        end = start + 1;
        while (end < n && end - start < RUN
               && all[end].number == all[end - 1].number + 1)
            end++;
        error = write_run(c, all + start, end - start);
    }
    free(all);
    return error;
}

int
obd_cache_write_through(struct obd_cache *c, uint64_t offset,
                        const uint8_t *buf, size_t size)
{
    while (size) {
        size_t part = first_part(offset, size);
        uint64_t number = offset >> OBD_PAGE_SHIFT;
        int error;

        if (part < OBD_PAGE) {
            error = obd_cache_write(c, offset, buf, part);
        } else {
            uint64_t end;

            part = size & ~(OBD_PAGE - 1);
            for (end = number + (part >> OBD_PAGE_SHIFT); number < end;
                 number++) {
                uint32_t i = find(c, number);

                if (i != NONE)
                    drop(c, i);
            }
            error = disk_write(c->disk, offset, buf, part);
        }
        if (error)
            return error;
        buf += part;
        offset += part;
        size -= part;
    }
    return 0;
}

int
obd_cache_discard(struct obd_cache *c, uint64_t offset, uint64_t size)
{
    uint64_t first = (offset + OBD_PAGE - 1) >> OBD_PAGE_SHIFT;
    uint64_t end = (offset + size) >> OBD_PAGE_SHIFT;
    uint64_t number;

    if (first >= end || end << OBD_PAGE_SHIFT > c->disk->size)
        return 0;
    for (number = first; number < end; number++) {
        uint32_t i = find(c, number);

        if (i != NONE)
            drop(c, i);
    }
    return disk_discard(c->disk, first << OBD_PAGE_SHIFT,
                        (end - first) << OBD_PAGE_SHIFT);
}
