/* SPDX-License-Identifier: Apache-2.0 */
/* segmap - which segment covers a sector: the look-up of every read.
 *
 * The disk is cut in buckets of 2^shift sectors, a few segments each.  A leaf
 * is half a cache line: the number of the first segment that ends in or after
 * it, and the last sectors of up to 14 segments that end in it, as 16 bits of
 * their offset in the leaf.  How many of those are smaller than the sector is
 * one comparison of two vectors, so a look-up is one cache line here and the
 * segment itself.
 *
 *   sector:  |    number    |<- shift, at most 16 ->|
 *
 * A bucket where more segments end is a node: it points to buckets of its own,
 * cut finer.  Even maps have none; clusters get as many as they need, and
 * together they take at most 16 bytes a segment and level.  A bucket too wide
 * for 16 bits, of a huge disk with little on it, is searched by halves unless
 * it is empty.
 */

#ifndef OBD_SEGMAP_H
#define OBD_SEGMAP_H

#include "obd.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define OBD_BUCKET_SLOTS 14
#define OBD_BUCKET_NODE (UINT32_C(1) << 31)

struct obd_bucket {
    uint32_t first;             /* segment; in a node its first bucket */
    union {
        int16_t last[OBD_BUCKET_SLOTS];     /* see obd_segmap_unit */
        struct {
            uint32_t shift;     /* of the buckets below */
            uint32_t mask;      /* their number, a power of two, less one */
        } node;
        struct {                /* a wide bucket is a node whose mask is 0 */
            uint32_t segment;   /* the first */
            uint32_t mask;
            uint32_t count;     /* of those that end in it */
        } wide;
    };
} __attribute__((aligned(32)));

struct obd_segmap {
    struct obd_segment *segments;       /* n, and a sentinel past the disk */
    struct obd_bucket *buckets;
    uint64_t n;
    uint64_t nroots;            /* buckets that are not below another */
    uint64_t nbuckets;
    unsigned shift;             /* of the roots */
};

/* A map of n segments, in order and apart from each other, which are copied.
 * NULL without memory, when n is 2^31 or more, or past 2^50 sectors.
 */
extern struct obd_segmap *obd_segmap_new(const struct obd_segment *segments,
                                         size_t n)
    OBD_MUST_USE;

extern void obd_segmap_free(struct obd_segmap *m);

extern size_t obd_segmap_memory(const struct obd_segmap *m) OBD_NONNULL(1);

/* obd_segmap_find, for Python. */
extern uint64_t obd_segmap_search(const struct obd_segmap *m, uint64_t sector)
    OBD_NONNULL(1);

extern uint64_t obd_segmap_wide(const struct obd_segmap *m,
                                const struct obd_bucket *b, uint64_t sector)
    OBD_NONNULL(1, 2);

/* A sector as a slot of a leaf has it: its last 16 bits, with the sign turned
 * because vectors compare signed numbers.
 */
static inline int16_t
obd_segmap_unit(uint64_t sector)
{
    return (int16_t)(uint16_t)(sector ^ 0x8000);
}

/* How many slots are smaller than x.  They are in order. */
static inline unsigned
obd_bucket_below(const struct obd_bucket *b, int16_t x)
{
#if defined(__SSE2__)
    const __m128i *v = (const __m128i *)(const void *)b;
    __m128i key = _mm_set1_epi16(x);
    __m128i below = _mm_packs_epi16(_mm_cmpgt_epi16(key, _mm_load_si128(v)),
                                    _mm_cmpgt_epi16(key,
                                                    _mm_load_si128(v + 1)));
    /* The two lowest lanes are `first`; a bit above the slots ends the run. */
    unsigned bits = (unsigned)_mm_movemask_epi8(below) >> 2;

    return (unsigned)__builtin_ctz(~bits);
#else
    unsigned n = 0;

    for (unsigned i = 0; i < OBD_BUCKET_SLOTS; i++)
        n += b->last[i] < x;
    return n;
#endif
}

/* The number of the first segment that ends after sector, or n.  That segment
 * covers the sector unless it starts after it.  segments[n] may be read.
 */
static inline uint64_t
obd_segmap_find(const struct obd_segmap *m, uint64_t sector)
{
    uint64_t number = sector >> m->shift;

    if (OBD_UNLIKELY(number >= m->nroots))
        return m->n;
    const struct obd_bucket *b = &m->buckets[number];

    while (OBD_UNLIKELY(b->first & OBD_BUCKET_NODE)) {
        if (OBD_UNLIKELY(b->node.mask == 0))
            return obd_segmap_wide(m, b, sector);
        b = &m->buckets[(b->first & ~OBD_BUCKET_NODE)
                        + ((sector >> b->node.shift) & b->node.mask)];
    }
    return b->first + obd_bucket_below(b, obd_segmap_unit(sector));
}

#endif
