/* SPDX-License-Identifier: Apache-2.0 */
/* maps - invented indexes to look up in, and the sectors to look for. */

#ifndef BENCH_MAPS_H
#define BENCH_MAPS_H

#include "obd.h"
#include "timing.h"

#define GRANULE 8               /* sectors in 4 KiB */
#define CLUSTER 200             /* entries in a cluster of small writes */

struct run {
    uint64_t gap;
    uint64_t length;
};

/* Runs of 4 to 256 KiB, many short, half of them with a gap before them. */
static inline struct run
mixed_run(uint64_t *state)
{
    uint64_t longest = UINT64_C(1) << random_below(state, 7);
    uint64_t widest = UINT64_C(1) << random_below(state, 8);
    struct run r;

    r.length = GRANULE * (1 + random_below(state, longest));
    r.gap = next_random(state) & 1
        ? GRANULE * (1 + random_below(state, widest)) : 0;
    return r;
}

/* Small writes close together, then much room: a database in a big disk. */
static inline struct run
clustered_run(uint64_t *state, uint64_t number)
{
    struct run r;

    r.length = GRANULE * (1 + random_below(state, 2));
    r.gap = number % CLUSTER == 0 ? GRANULE * random_below(state, 50000)
        : GRANULE * random_below(state, 2);
    return r;
}

/* n segments in order, entry i stored right after entry i - 1. */
static inline struct obd_segment *
invent_map(size_t n, int clustered)
{
    struct obd_segment *s = need(calloc(n + 1, sizeof *s));
    uint64_t state = n, at = 0, moffset = GRANULE;

    for (size_t i = 0; i < n; i++) {
        struct run r = clustered ? clustered_run(&state, i)
            : mixed_run(&state);

        at += r.gap;
        s[i].lo = at | r.length << OBD_START_BITS;
        s[i].hi = moffset;
        at += r.length;
        moffset += r.length;
    }
    return s;
}

/* Sectors to look for: anywhere on the disk, or where it is clustered inside
 * entries, because hardly any other sector would hit a cluster.
 */
static inline uint64_t *
invent_sectors(const struct obd_segment *s, size_t n, size_t count,
               int clustered)
{
    uint64_t *sectors = need(calloc(count, sizeof *sectors));
    uint64_t state = ~(uint64_t)n;

    for (size_t i = 0; i < count; i++) {
        const struct obd_segment *e = &s[random_below(&state, n)];

        sectors[i] = clustered
            ? obd_start(e) + random_below(&state, obd_length(e))
            : random_below(&state, obd_end(&s[n - 1]));
    }
    return sectors;
}

#endif
