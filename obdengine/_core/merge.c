/* SPDX-License-Identifier: Apache-2.0 */
/* merge - see merge.h.
 *
 * Runs of neighbouring layers are folded two by two, as a merge sort does:
 * each pass walks memory in order, and there are log k passes.  A start in
 * the result is a start or an end in the input, so 2 N segments always do,
 * whatever was folded first.
 */

#include "merge.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* A folded run: the n segments at index at of the current buffer. */
struct run {
    size_t at;
    size_t n;
};

/* upper over lower into dst; returns how many.
 *
 *   lower:  |------- l -------|
 *   upper:      |-- u --|
 *   dst:    |-l-|-- u --|--l--|
 */
static size_t
fold(const struct obd_segment *upper, size_t nu,
     const struct obd_segment *lower, size_t nl, struct obd_segment *dst)
{
    const struct obd_segment *u = upper, *u_end = upper + nu;
    struct obd_segment *d = dst;
    uint64_t done = 0;          /* lower is dealt with up to this sector */

    for (const struct obd_segment *l = lower; l < lower + nl; l++) {
        uint64_t start = obd_start(l), end = obd_end(l);

        if (start < done)
            start = done;
        while (start < end && u < u_end && obd_start(u) < end) {
            if (start < obd_start(u))
                *d++ = obd_piece(l, start, obd_start(u));
            if (start < obd_end(u))
                start = obd_end(u);
            *d++ = *u++;
        }
        if (start < end)
            *d++ = start == obd_start(l) ? *l : obd_piece(l, start, end);
        done = start;
    }
    if (u < u_end) {
        memcpy(d, u, (size_t)(u_end - u) * sizeof *d);
        d += u_end - u;
    }
    return (size_t)(d - dst);
}

/* Fold runs[0] and runs[1], runs[2] and runs[3]... from src into dst.  A run
 * stays where its lowest layer was loaded, with room for twice its input, so
 * that runs never meet.
 */
static size_t
pass(const struct obd_segment *src, struct obd_segment *dst,
     struct run *runs, size_t k)
{
    size_t folded = 0;

    for (size_t i = 0; i < k; i += 2, folded++) {
        struct run lower = runs[i];
        struct run upper = { 0, 0 };

        if (i + 1 < k)
            upper = runs[i + 1];
        runs[folded].at = lower.at;
        runs[folded].n = fold(src + upper.at, upper.n, src + lower.at,
                              lower.n, dst + lower.at);
    }
    return folded;
}

static void
load(const struct obd_segment *const *layers, const size_t *counts, size_t k,
     struct obd_segment *dst, struct run *runs)
{
    const uint64_t keep = OBD_ZEROED_BIT | OBD_MOFFSET_MASK;
    size_t at = 0;

    for (size_t i = 0; i < k; i++) {
        runs[i] = (struct run){ at, counts[i] };
        for (size_t j = 0; j < counts[i]; j++) {
            dst[at + j].lo = layers[i][j].lo;
            dst[at + j].hi = (layers[i][j].hi & keep)
                             | (uint64_t)i << OBD_TAG_SHIFT;
        }
        at += 2 * counts[i];
    }
}

int
obd_merge(const struct obd_segment *const *layers, const size_t *counts,
          size_t k, struct obd_segment **out, size_t *n)
{
    struct run runs[OBD_MAX_STACK];
    struct obd_segment *src, *dst, *swap;
    size_t total = 0;

    if (k == 0 || k > OBD_MAX_STACK)
        return OBD_BAD_ARGUMENT;
    for (size_t i = 0; i < k; i++)
        total += counts[i];
    src = malloc((2 * total + 1) * sizeof *src);
    dst = malloc((2 * total + 1) * sizeof *dst);
    if (src == NULL || dst == NULL) {
        free(src);
        free(dst);
        return OBD_NOMEM;
    }
    load(layers, counts, k, src, runs);
    while (k > 1) {
        k = pass(src, dst, runs, k);
        swap = src;
        src = dst;
        dst = swap;
    }
    free(dst);
    *n = runs[0].n;
    *out = realloc(src, (runs[0].n + 1) * sizeof *src);
    if (*out == NULL)
        *out = src;
    return OBD_OK;
}
