/* SPDX-License-Identifier: Apache-2.0 */
/* lookup - the core's map and its rivals on one invented index.
 *
 * lookup mixed|clustered ENTRIES ROUNDS prints samples: "rate" is lookups a
 * second, each reading the segment that it found and none waiting for
 * another; "latency" is seconds when the next sector depends on what was
 * found; "memory" is bytes beside the segments.  All rivals must find the
 * same segments, or it fails.
 */

#include <stdbool.h>

#include "btree.h"
#include "maps.h"
#include "rivals.h"
#include "segmap.h"

#define SECTORS ((size_t)1 << 18)
#define PASSES 4
#define DEPENDENT ((size_t)1 << 16)

struct bench {
    struct obd_segmap *map;
    const struct obd_segment *segments;
    const uint64_t *sectors;
    struct binary binary;
    struct eytzinger eytzinger;
    struct directory directory;
#ifdef BENCH_HAS_BTREE
    struct btree btree;
#endif
};

/* A function that runs one rival, with its search inlined as a read has it:
 * the sum of what it found, and seconds for all and for a dependent chain.
 */
#define RIVAL(name, isa, find, structure)                                   \
    isa static uint64_t                                                     \
    run_##name(const struct bench *b, double *all, double *chain)           \
    {                                                                       \
        uint64_t sum = 0, held = 0;                                         \
        double began = seconds();                                           \
                                                                            \
        for (int pass = 0; pass < PASSES; pass++)                           \
            for (size_t i = 0; i < SECTORS; i++)                            \
                sum += obd_moffset(                                         \
                    &b->segments[find(structure, b->sectors[i])]);          \
        *all = seconds() - began;                                           \
        began = seconds();                                                  \
        for (size_t i = 0; i < DEPENDENT; i++)                              \
            held = b->segments[find(structure, b->sectors[i] + held)].hi    \
                >> OBD_TAG_SHIFT;                                           \
        *chain = seconds() - began;                                         \
        return sum + held;                                                  \
    }

RIVAL(core, , obd_segmap_find, b->map)
RIVAL(binary, , binary_find, &b->binary)
RIVAL(eytzinger, , eytzinger_find, &b->eytzinger)
RIVAL(directory, , directory_find, &b->directory)
#ifdef BENCH_HAS_BTREE
RIVAL(avx2, __attribute__((target("avx2"))), btree_find_avx2, &b->btree)
RIVAL(avx512, __attribute__((target("avx512f"))), btree_find_avx512,
      &b->btree)
#endif

struct rival {
    const char *name;
    uint64_t (*run)(const struct bench *, double *, double *);
    size_t memory;
    bool usable;
};

static size_t
list_rivals(const struct bench *b, struct rival *out)
{
    size_t n = b->map->n, k = 0;

    out[k++] = (struct rival){
        "core", run_core, obd_segmap_memory(b->map) - n * 16, true };
    out[k++] = (struct rival){
        "directory", run_directory, b->directory.n * 4, true };
    out[k++] = (struct rival){ "binary", run_binary, n * 8, true };
    out[k++] = (struct rival){ "eytzinger", run_eytzinger, n * 12, true };
#ifdef BENCH_HAS_BTREE
    out[k++] = (struct rival){ "btree-avx2", run_avx2, b->btree.size * 8,
                               __builtin_cpu_supports("avx2") };
    out[k++] = (struct rival){ "btree-avx512", run_avx512,
                               b->btree.size * 8,
                               __builtin_cpu_supports("avx512f") };
#endif
    return k;
}

static int
measure(const struct bench *b, int rounds)
{
    struct rival rivals[8];
    size_t k = list_rivals(b, rivals);
    uint64_t want = 0;
    double all, chain;

    for (size_t i = 0; i < k; i++)
        if (rivals[i].usable)
            sample(rivals[i].name, "memory", (double)rivals[i].memory);
    for (int round = 0; round < rounds; round++) {
        for (size_t i = 0; i < k; i++) {
            if (!rivals[i].usable)
                continue;
            uint64_t sum = rivals[i].run(b, &all, &chain);

            if (want && sum != want) {
                fprintf(stderr, "%s finds others\n", rivals[i].name);
                return 1;
            }
            want = sum;
            sample(rivals[i].name, "rate", (double)(SECTORS * PASSES) / all);
            sample(rivals[i].name, "latency", chain / (double)DEPENDENT);
        }
    }
    sample("all", "sum", (double)(want % 1000000007));
    return 0;
}

int
main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    int clustered = strcmp(argv[1], "clustered") == 0;
    size_t n = strtoull(argv[2], NULL, 10);
    struct obd_segment *s = invent_map(n, clustered);
    struct bench b = {
        .map = need(obd_segmap_new(s, n)),
        .sectors = invent_sectors(s, n, SECTORS, clustered),
    };

    /* All read the copy that the map has, so that none has warmer caches. */
    b.segments = b.map->segments;
    b.binary = binary_new(b.segments, n);
    b.eytzinger = eytzinger_new(b.segments, n);
    b.directory = directory_new(b.segments, n);
#ifdef BENCH_HAS_BTREE
    b.btree = btree_new(b.segments, n);
#endif
    return measure(&b, atoi(argv[3]));
}
