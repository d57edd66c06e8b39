/* SPDX-License-Identifier: Apache-2.0 */
/* segmap - see segmap.h. */

#include "segmap.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Segments a root, at most, on average.  8 against 4: a third faster at a
 * million entries, where half the memory counts, and 5 to 10 % slower below
 * ten thousand (tests/bench, 2026-11-22).
 */
#define ROOT_FILL 8
#define NODE_FILL 4
#define NODE_BITS_MIN 2

/* Bits of a slot. */
#define UNIT_BITS 16

#define HUGE_PAGE ((size_t)2 << 20)

/* The map while it is made: buckets grow, numbers stay. */
struct maker {
    struct obd_segmap *m;
    uint64_t capacity;
    bool failed;
};

/* Room for size bytes at a cache line; at a huge page where that is worth it
 * (one TLB entry for what random look-ups touch).
 */
static void *
room(size_t size)
{
    size_t unit = size < HUGE_PAGE ? 64 : HUGE_PAGE;
    size_t whole = (size + unit - 1) / unit * unit;
    void *p = aligned_alloc(unit, whole ? whole : unit);

    if (p != NULL && unit == HUGE_PAGE)
        (void)madvise(p, whole, MADV_HUGEPAGE); /* only a wish */
    return p;
}

/* n more buckets; returns the number of the first. */
static uint64_t
reserve(struct maker *k, uint64_t n)
{
    struct obd_segmap *m = k->m;
    uint64_t first = m->nbuckets, need = first + n;

    if (need > k->capacity) {
        uint64_t capacity = need + need / 4;
        struct obd_bucket *grown = room(capacity * sizeof *grown);

        if (grown == NULL || need >= OBD_BUCKET_NODE) {
            free(grown);
            k->failed = true;
            return 0;
        }
        if (first > 0)
            memcpy(grown, m->buckets, first * sizeof *grown);
        free(m->buckets);
        m->buckets = grown;
        k->capacity = capacity;
    }
    m->nbuckets = need;
    return first;
}

static void
make_leaf(struct obd_segmap *m, uint64_t number, uint64_t first,
          uint64_t next)
{
    struct obd_bucket *b = &m->buckets[number];

    b->first = (uint32_t)first;
    for (unsigned i = 0; i < OBD_BUCKET_SLOTS; i++)
        b->last[i] = INT16_MAX;
    for (uint64_t i = first; i < next; i++)
        b->last[i - first] = obd_segmap_unit(obd_end(&m->segments[i]) - 1);
}

static void
make_wide(struct obd_segmap *m, uint64_t number, uint64_t first,
          uint64_t next)
{
    struct obd_bucket *b = &m->buckets[number];

    b->first = OBD_BUCKET_NODE;
    b->wide.segment = (uint32_t)first;
    b->wide.mask = 0;
    b->wide.count = (uint32_t)(next - first);
}

/* The first segment from i on whose last sector is sector or later. */
static uint64_t
skip_to(const struct obd_segmap *m, uint64_t i, uint64_t sector)
{
    while (obd_end(&m->segments[i]) <= sector)
        i++;
    return i;
}

static unsigned
bits_for(uint64_t count, unsigned shift)
{
    unsigned bits = NODE_BITS_MIN;

    while (bits < shift && (count >> bits) > NODE_FILL)
        bits++;
    return bits;
}

/* Make n buckets of 2^shift sectors, the first of which is number at and
 * starts at sector; first is the first segment that ends after that.
 */
static void
make_buckets(struct maker *k, uint64_t at, uint64_t n, unsigned shift,
             uint64_t sector, uint64_t first)
{
    struct obd_segmap *m = k->m;

    for (uint64_t i = 0; i < n && !k->failed; i++) {
        /* One that ends with the bucket is below none of its sectors. */
        uint64_t last = sector + ((i + 1) << shift) - 1;
        uint64_t next = skip_to(m, first, last);

        if (next == first
            || (shift <= UNIT_BITS && next - first <= OBD_BUCKET_SLOTS)) {
            make_leaf(m, at + i, first, next);
        } else if (next - first <= OBD_BUCKET_SLOTS) {
            make_wide(m, at + i, first, next);
        } else {
            unsigned bits = bits_for(next - first, shift);
            uint64_t below = reserve(k, UINT64_C(1) << bits);

            m->buckets[at + i].first = (uint32_t)below | OBD_BUCKET_NODE;
            m->buckets[at + i].node.shift = shift - bits;
            m->buckets[at + i].node.mask = (UINT32_C(1) << bits) - 1;
            make_buckets(k, below, UINT64_C(1) << bits, shift - bits,
                         sector + (i << shift), first);
        }
        first = skip_to(m, next, last + 1);
    }
}

static bool
make_roots(struct obd_segmap *m)
{
    uint64_t disk_end = m->n ? obd_end(&m->segments[m->n - 1]) : 0;
    struct maker k = { .m = m };

    if (m->n == 0)
        return true;
    while ((disk_end - 1) >> m->shift > m->n / (ROOT_FILL / 2))
        m->shift++;
    m->nroots = ((disk_end - 1) >> m->shift) + 1;
    (void)reserve(&k, m->nroots);
    if (!k.failed)
        make_buckets(&k, 0, m->nroots, m->shift, 0, 0);
    return !k.failed;
}

struct obd_segmap *
obd_segmap_new(const struct obd_segment *segments, size_t n)
{
    struct obd_segmap *m;

    if (n >= OBD_BUCKET_NODE)
        return NULL;
    for (size_t i = 0; i < n; i++)
        if (obd_end(&segments[i]) > OBD_START_MASK)
            return NULL;
    m = calloc(1, sizeof *m);
    if (m == NULL)
        return NULL;
    m->n = n;
    m->segments = room((n + 1) * sizeof *segments);
    if (m->segments == NULL) {
        free(m);
        return NULL;
    }
    if (n > 0)
        memcpy(m->segments, segments, n * sizeof *segments);
    /* Starts and ends past any sector there can be. */
    m->segments[n] = (struct obd_segment){ UINT64_MAX, OBD_ZEROED_BIT };
    if (!make_roots(m)) {
        obd_segmap_free(m);
        return NULL;
    }
    return m;
}

void
obd_segmap_free(struct obd_segmap *m)
{
    if (m == NULL)
        return;
    free(m->segments);
    free(m->buckets);
    free(m);
}

size_t
obd_segmap_memory(const struct obd_segmap *m)
{
    return sizeof *m + (m->n + 1) * sizeof *m->segments
           + m->nbuckets * sizeof *m->buckets;
}

uint64_t
obd_segmap_search(const struct obd_segmap *m, uint64_t sector)
{
    return obd_segmap_find(m, sector);
}

uint64_t
obd_segmap_wide(const struct obd_segmap *m, const struct obd_bucket *b,
                uint64_t sector)
{
    uint64_t low = b->wide.segment, n = b->wide.count;

    while (n > 0) {
        uint64_t half = n / 2;
        bool after = obd_end(&m->segments[low + half]) <= sector;

        low = after ? low + half + 1 : low;
        n = after ? n - half - 1 : half;
    }
    return low;
}
