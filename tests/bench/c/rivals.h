/* SPDX-License-Identifier: Apache-2.0 */
/* rivals - other ways to look a sector up, here only to be measured.
 *
 * Each finds the number of the first of n segments that ends after a sector
 * smaller than the last end.
 */

#ifndef BENCH_RIVALS_H
#define BENCH_RIVALS_H

#include <string.h>

#include "obd.h"
#include "timing.h"

static inline void *
cache_lines(size_t size)
{
    void *p = need(aligned_alloc(64, (size + 63) / 64 * 64));

    memset(p, 0, (size + 63) / 64 * 64);
    return p;
}

/* Binary search without branches over an array of ends. */
struct binary {
    uint64_t *ends;
    size_t n;
};

static inline struct binary
binary_new(const struct obd_segment *s, size_t n)
{
    struct binary b = { cache_lines(n * 8), n };

    for (size_t i = 0; i < n; i++)
        b.ends[i] = obd_end(&s[i]);
    return b;
}

static inline size_t
binary_find(const struct binary *b, uint64_t sector)
{
    const uint64_t *low = b->ends;
    size_t n = b->n;

    while (n > 1) {
        size_t half = n / 2;

        size_t step = low[half - 1] <= sector ? half : 0;

        /* Else gcc makes a branch of the choice. */
        __asm__("" : "+r"(step));
        low += step;
        n -= half;
    }
    return (size_t)(low - b->ends) + (*low <= sector);
}

/* The same ends in the order of a tree laid out level by level, which a
 * prefetch can follow.
 */
struct eytzinger {
    uint64_t *ends;             /* from 1 */
    uint32_t *numbers;
    size_t n;
};

static inline size_t
eytzinger_fill(struct eytzinger *e, const struct obd_segment *s, size_t i,
               size_t node)
{
    if (node > e->n)
        return i;
    i = eytzinger_fill(e, s, i, 2 * node);
    e->ends[node] = obd_end(&s[i]);
    e->numbers[node] = (uint32_t)i;
    return eytzinger_fill(e, s, i + 1, 2 * node + 1);
}

static inline struct eytzinger
eytzinger_new(const struct obd_segment *s, size_t n)
{
    struct eytzinger e = { cache_lines((n + 1) * 8),
                           cache_lines((n + 1) * 4), n };

    eytzinger_fill(&e, s, 0, 1);
    return e;
}

static inline size_t
eytzinger_find(const struct eytzinger *e, uint64_t sector)
{
    size_t node = 1;

    while (node <= e->n) {
        __builtin_prefetch(e->ends + 8 * node);
        node = 2 * node + (e->ends[node] <= sector);
    }
    node >>= __builtin_ctzll(~(unsigned long long)node) + 1;
    return e->numbers[node];
}

/* A directory: sector >> shift gives the first segment, then step. */
struct directory {
    uint32_t *first;
    const struct obd_segment *segments;
    size_t n;
    unsigned shift;
};

static inline struct directory
directory_new(const struct obd_segment *s, size_t n)
{
    uint64_t end = obd_end(&s[n - 1]);
    struct directory d = { NULL, s, 0, 0 };
    uint32_t i = 0;

    while (end >> (d.shift + 1) >= n)
        d.shift++;
    d.n = (end >> d.shift) + 1;
    d.first = cache_lines(d.n * 4);
    for (size_t b = 0; b < d.n; b++) {
        while (i < n && obd_end(&s[i]) <= (uint64_t)b << d.shift)
            i++;
        d.first[b] = i;
    }
    return d;
}

static inline size_t
directory_find(const struct directory *d, uint64_t sector)
{
    size_t i = d->first[sector >> d->shift];

    while (obd_end(&d->segments[i]) <= sector)
        i++;
    return i;
}

#endif
