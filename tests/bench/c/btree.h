/* SPDX-License-Identifier: Apache-2.0 */
/* btree - a static B+ tree of ends, 16 keys a node, searched with vectors.
 *
 * Here only to be measured. Children of a node are found by arithmetic. An
 * inner key is the last end of the subtree on its left.
 */

#ifndef BENCH_BTREE_H
#define BENCH_BTREE_H

#include "rivals.h"

#if defined(__x86_64__)
#define BENCH_HAS_BTREE 1

#include <immintrin.h>

#define NODE ((size_t)16)
#define LEVELS 8

struct btree {
    uint64_t *keys;             /* leaves first */
    size_t at[LEVELS];          /* where a level starts in keys */
    size_t size;
    int height;
};

static inline size_t
nodes(size_t keys)
{
    return (keys + NODE - 1) / NODE;
}

static inline void
btree_fill_level(struct btree *t, const struct obd_segment *s, size_t n,
                 int level, size_t keys)
{
    for (size_t i = 0; i < nodes(keys) * NODE; i++) {
        size_t leaf = i / NODE * (NODE + 1) + i % NODE + 1;

        for (int l = 1; l < level; l++)
            leaf *= NODE + 1;
        if (leaf * NODE < n)
            t->keys[t->at[level] + i] = obd_end(&s[leaf * NODE - 1]);
    }
}

static inline struct btree
btree_new(const struct obd_segment *s, size_t n)
{
    struct btree t = { .height = 0 };
    size_t keys[LEVELS] = { n };

    for (;;) {
        t.at[t.height] = t.size;
        t.size += nodes(keys[t.height]) * NODE;
        if (nodes(keys[t.height++]) == 1)
            break;
        keys[t.height] = (nodes(keys[t.height - 1]) + NODE) / (NODE + 1)
            * NODE;
    }
    t.keys = cache_lines(t.size * 8);
    for (size_t i = 0; i < t.size; i++)
        t.keys[i] = INT64_MAX;
    for (size_t i = 0; i < n; i++)
        t.keys[i] = obd_end(&s[i]);
    for (int level = 1; level < t.height; level++)
        btree_fill_level(&t, s, n, level, keys[level]);
    return t;
}

/* How many keys of a node are at most x; they are in order. */
__attribute__((target("avx2"))) static inline unsigned
below_avx2(const uint64_t *node, uint64_t x)
{
    __m256i key = _mm256_set1_epi64x((int64_t)x);
    unsigned above = 1u << NODE;

    for (unsigned i = 0; i < 4; i++) {
        __m256i v = _mm256_load_si256((const __m256i *)(const void *)node + i);
        __m256d gt = _mm256_castsi256_pd(_mm256_cmpgt_epi64(v, key));

        above |= (unsigned)_mm256_movemask_pd(gt) << (4 * i);
    }
    return (unsigned)__builtin_ctz(above);
}

__attribute__((target("avx512f"))) static inline unsigned
below_avx512(const uint64_t *node, uint64_t x)
{
    __m512i key = _mm512_set1_epi64((int64_t)x);
    unsigned low = _mm512_cmpgt_epi64_mask(_mm512_load_si512(node), key);
    unsigned high = _mm512_cmpgt_epi64_mask(_mm512_load_si512(node + 8), key);

    return (unsigned)__builtin_ctz(low | high << 8 | 1u << NODE);
}

#define BTREE_FIND(kernel, isa)                                             \
    __attribute__((target(isa))) static inline size_t                       \
    btree_find_##kernel(const struct btree *t, uint64_t sector)             \
    {                                                                       \
        size_t at = 0;                                                      \
                                                                            \
        for (int level = t->height - 1; level > 0; level--) {               \
            const uint64_t *node = t->keys + t->at[level] + at;             \
                                                                            \
            at = at * (NODE + 1) + below_##kernel(node, sector) * NODE;     \
        }                                                                   \
        return at + below_##kernel(t->keys + at, sector);                   \
    }

BTREE_FIND(avx2, "avx2")
BTREE_FIND(avx512, "avx512f")

#endif
#endif
