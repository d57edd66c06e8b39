/* SPDX-License-Identifier: Apache-2.0 */
/* live - see live.h.
 *
 * Leaves are never empty, but for the only one of an empty index.  All memory
 * that an insert can need is had before anything is changed.
 */

#include "live.h"

#include <stdlib.h>
#include <string.h>

/* One insert can split twice: around it, and where it goes. */
#define SPARES 2

struct leaf {
    uint32_t n;
    struct obd_segment s[OBD_LEAF_MAX];
};

struct obd_live {
    struct leaf **leaves;
    uint64_t *ends;             /* last_end() of each: close together */
    size_t nleaves;
    size_t capacity;
    struct leaf *spare[SPARES]; /* what the next splits will use, or NULL */
    uint64_t count;
    uint64_t stored;
};

/* A segment's place; i == n of the last leaf: past the end. */
struct place {
    size_t leaf;
    uint32_t i;
};

struct obd_live *
obd_live_new(void)
{
    struct obd_live *live = calloc(1, sizeof *live);

    if (live == NULL)
        return NULL;
    live->capacity = 8;
    live->leaves = malloc(live->capacity * sizeof *live->leaves);
    live->ends = calloc(live->capacity, sizeof *live->ends);
    if (live->leaves != NULL)
        live->leaves[0] = calloc(1, sizeof **live->leaves);
    if (live->leaves == NULL || live->ends == NULL
        || live->leaves[0] == NULL) {
        obd_live_free(live);
        return NULL;
    }
    live->nleaves = 1;
    return live;
}

void
obd_live_free(struct obd_live *live)
{
    if (live == NULL)
        return;
    for (size_t i = 0; i < live->nleaves; i++)
        free(live->leaves[i]);
    free(live->leaves);
    free(live->ends);
    for (unsigned i = 0; i < SPARES; i++)
        free(live->spare[i]);
    free(live);
}

/* Memory for all splits of one insert. */
static bool
reserve(struct obd_live *live)
{
    for (unsigned i = 0; i < SPARES; i++) {
        if (live->spare[i] == NULL)
            live->spare[i] = malloc(sizeof **live->spare);
        if (live->spare[i] == NULL)
            return false;
    }
    if (live->nleaves + SPARES <= live->capacity)
        return true;
    size_t capacity = live->capacity * 2;
    struct leaf **leaves = realloc(live->leaves, capacity * sizeof *leaves);

    if (leaves == NULL)
        return false;
    live->leaves = leaves;
    uint64_t *ends = realloc(live->ends, capacity * sizeof *ends);

    if (ends == NULL)
        return false;
    live->ends = ends;
    live->capacity = capacity;
    return true;
}

static uint64_t
last_end(const struct leaf *leaf)
{
    return leaf->n ? obd_end(&leaf->s[leaf->n - 1]) : 0;
}

/* The last segment of a leaf has changed, or may have. */
static void
mark_end(struct obd_live *live, size_t number)
{
    live->ends[number] = last_end(live->leaves[number]);
}

/* The first segment that ends after sector. */
static struct place
find(const struct obd_live *live, uint64_t sector)
{
    size_t low = 0, n = live->nleaves - 1;

    while (n > 0) {
        size_t half = n / 2;
        bool after = live->ends[low + half] <= sector;

        low = after ? low + half + 1 : low;
        n = after ? n - half - 1 : half;
    }
    const struct leaf *leaf = live->leaves[low];
    uint32_t i = 0;

    for (uint32_t left = leaf->n; left > 0;) {
        uint32_t half = left / 2;
        bool after = obd_end(&leaf->s[i + half]) <= sector;

        i = after ? i + half + 1 : i;
        left = after ? left - half - 1 : half;
    }
    return (struct place){ low, i };
}

static void
drop_leaf(struct obd_live *live, size_t number)
{
    if (live->nleaves == 1)
        return;
    free(live->leaves[number]);
    live->nleaves--;
    memmove(&live->leaves[number], &live->leaves[number + 1],
            (live->nleaves - number) * sizeof *live->leaves);
    memmove(&live->ends[number], &live->ends[number + 1],
            (live->nleaves - number) * sizeof *live->ends);
}

static struct leaf *
take_spare(struct obd_live *live)
{
    unsigned i = live->spare[0] == NULL;
    struct leaf *leaf = live->spare[i];

    live->spare[i] = NULL;
    return leaf;
}

/* Cut a full leaf in two; reserve() came before. */
static void
split(struct obd_live *live, size_t number)
{
    struct leaf *full = live->leaves[number], *next = take_spare(live);
    uint32_t keep = full->n / 2;

    /* Appending in order fills leaves: leave nearly all of it behind. */
    if (number == live->nleaves - 1)
        keep = full->n - 1;
    next->n = full->n - keep;
    memcpy(next->s, full->s + keep, next->n * sizeof *next->s);
    full->n = keep;
    memmove(&live->leaves[number + 2], &live->leaves[number + 1],
            (live->nleaves - number - 1) * sizeof *live->leaves);
    memmove(&live->ends[number + 2], &live->ends[number + 1],
            (live->nleaves - number - 1) * sizeof *live->ends);
    live->leaves[number + 1] = next;
    live->nleaves++;
    mark_end(live, number);
    mark_end(live, number + 1);
}

static void
account(struct obd_live *live, const struct obd_segment *s, bool add)
{
    uint64_t stored = obd_zeroed(s) ? 0 : obd_length(s);

    live->stored = add ? live->stored + stored : live->stored - stored;
}

/* Put s before place; reserve() came before. */
static void
place_one(struct obd_live *live, struct place at, struct obd_segment s)
{
    if (live->leaves[at.leaf]->n == OBD_LEAF_MAX) {
        split(live, at.leaf);
        if (at.i > live->leaves[at.leaf]->n) {
            at.i -= live->leaves[at.leaf]->n;
            at.leaf++;
        }
    }
    struct leaf *leaf = live->leaves[at.leaf];

    memmove(leaf->s + at.i + 1, leaf->s + at.i,
            (leaf->n - at.i) * sizeof *leaf->s);
    leaf->s[at.i] = s;
    leaf->n++;
    mark_end(live, at.leaf);
    live->count++;
    account(live, &s, true);
}

static void
hide(struct obd_live *live, const struct obd_segment *piece,
     obd_hidden *hidden, void *context)
{
    account(live, piece, false);
    if (hidden != NULL && !obd_zeroed(piece))
        hidden(context, obd_moffset(piece), obd_length(piece));
}

/* Put other in the place of a segment that it is a part of. */
static void
shrink(struct obd_live *live, struct place at, struct obd_segment other,
       struct obd_segment gone, obd_hidden *hidden, void *context)
{
    hide(live, &gone, hidden, context);
    live->leaves[at.leaf]->s[at.i] = other;
    mark_end(live, at.leaf);
}

/* Take whole segments that end at or before end out of one leaf. */
static uint32_t
drop_run(struct obd_live *live, struct place at, uint64_t end,
         obd_hidden *hidden, void *context)
{
    struct leaf *leaf = live->leaves[at.leaf];
    uint32_t i = at.i;

    for (; i < leaf->n && obd_end(&leaf->s[i]) <= end; i++)
        hide(live, &leaf->s[i], hidden, context);
    memmove(leaf->s + at.i, leaf->s + i, (leaf->n - i) * sizeof *leaf->s);
    leaf->n -= i - at.i;
    mark_end(live, at.leaf);
    live->count -= i - at.i;
    return i - at.i;
}

/* The segment at place, after stepping over the end of a leaf; or NULL. */
static struct obd_segment *
settle(struct obd_live *live, struct place *at)
{
    if (at->i == live->leaves[at->leaf]->n && at->leaf + 1 < live->nleaves)
        *at = (struct place){ at->leaf + 1, 0 };
    if (at->i == live->leaves[at->leaf]->n)
        return NULL;
    return &live->leaves[at->leaf]->s[at->i];
}

/* Take what lies between place and end out; returns the place after it. */
static struct place
clear_from(struct obd_live *live, struct place at, uint64_t end,
           obd_hidden *hidden, void *context)
{
    struct obd_segment *s;

    while ((s = settle(live, &at)) != NULL && obd_start(s) < end) {
        if (obd_end(s) > end) {
            shrink(live, at, obd_piece(s, end, obd_end(s)),
                   obd_piece(s, obd_start(s), end), hidden, context);
            break;
        }
        (void)drop_run(live, at, end, hidden, context);
        if (live->leaves[at.leaf]->n == 0)
            drop_leaf(live, at.leaf);
        if (at.leaf == live->nleaves) {
            at.leaf--;
            at.i = live->leaves[at.leaf]->n;
        }
    }
    return at;
}

/* obd_live_remove once there is memory; returns where start belongs now. */
static struct place
clear(struct obd_live *live, uint64_t start, uint64_t end,
      obd_hidden *hidden, void *context)
{
    struct place at = find(live, start);
    struct obd_segment *s = settle(live, &at);

    if (s != NULL && obd_start(s) < start && obd_end(s) > end) {
        struct obd_segment right = obd_piece(s, end, obd_end(s));

        account(live, &right, false);
        shrink(live, at, obd_piece(s, obd_start(s), start),
               obd_piece(s, start, end), hidden, context);
        at.i++;
        place_one(live, at, right);
        return find(live, start);
    }
    if (s != NULL && obd_start(s) < start) {
        shrink(live, at, obd_piece(s, obd_start(s), start),
               obd_piece(s, start, obd_end(s)), hidden, context);
        at.i++;
    }
    return clear_from(live, at, end, hidden, context);
}

int
obd_live_remove(struct obd_live *live, uint64_t start, uint64_t end,
                obd_hidden *hidden, void *context)
{
    if (!reserve(live))
        return OBD_NOMEM;
    (void)clear(live, start, end, hidden, context);
    return OBD_OK;
}

/* Whether b continues a, on the disk and in the layer. */
static bool
continues(const struct obd_segment *a, const struct obd_segment *b)
{
    if (obd_end(a) != obd_start(b) || obd_zeroed(a) != obd_zeroed(b)
        || obd_length(a) + obd_length(b) > OBD_MAX_LENGTH)
        return false;
    return obd_zeroed(a) || obd_moffset(a) + obd_length(a) == obd_moffset(b);
}

static void
lengthen(struct obd_live *live, struct place at, uint64_t length)
{
    struct obd_segment *s = &live->leaves[at.leaf]->s[at.i];

    if (!obd_zeroed(s))
        live->stored += length;
    s->lo += length << OBD_START_BITS;
    mark_end(live, at.leaf);
}

int
obd_live_insert(struct obd_live *live, struct obd_segment s,
                obd_hidden *hidden, void *context)
{
    if (!reserve(live))
        return OBD_NOMEM;
    struct place at = clear(live, obd_start(&s), obd_end(&s), hidden, context);
    struct leaf *leaf = live->leaves[at.leaf];

    if (at.i > 0 && continues(&leaf->s[at.i - 1], &s)) {
        at.i--;
        lengthen(live, at, obd_length(&s));
        return OBD_OK;
    }
    if (at.i < leaf->n && continues(&s, &leaf->s[at.i])) {
        uint64_t length = obd_length(&leaf->s[at.i]);

        account(live, &leaf->s[at.i], false);
        leaf->s[at.i] = s;
        account(live, &s, true);
        lengthen(live, at, length);
        return OBD_OK;
    }
    place_one(live, at, s);
    return OBD_OK;
}

size_t
obd_live_collect(const struct obd_live *live, uint64_t start, uint64_t end,
                 struct obd_segment *out, size_t cap, uint64_t *upto)
{
    struct place at = find(live, start);
    size_t n = 0;

    *upto = end;
    for (; at.leaf < live->nleaves; at = (struct place){ at.leaf + 1, 0 }) {
        const struct leaf *leaf = live->leaves[at.leaf];

        for (; at.i < leaf->n; at.i++) {
            const struct obd_segment *s = &leaf->s[at.i];
            uint64_t from = obd_start(s) > start ? obd_start(s) : start;
            uint64_t to = obd_end(s) < end ? obd_end(s) : end;

            if (from >= end)
                return n;
            if (n == cap) {
                *upto = from;
                return n;
            }
            out[n++] = obd_piece(s, from, to);
        }
    }
    return n;
}

uint64_t
obd_live_count(const struct obd_live *live)
{
    return live->count;
}

uint64_t
obd_live_stored(const struct obd_live *live)
{
    return live->stored;
}

size_t
obd_live_memory(const struct obd_live *live)
{
    return sizeof *live
           + live->capacity * (sizeof *live->leaves + sizeof *live->ends)
           + (live->nleaves + SPARES) * sizeof **live->leaves;
}

bool
obd_live_check(const struct obd_live *live)
{
    uint64_t count = 0, stored = 0, end = 0;

    for (size_t l = 0; l < live->nleaves; l++) {
        const struct leaf *leaf = live->leaves[l];

        if (leaf->n > OBD_LEAF_MAX || (leaf->n == 0 && live->nleaves > 1)
            || live->ends[l] != last_end(leaf))
            return false;
        for (uint32_t i = 0; i < leaf->n; i++) {
            if (obd_length(&leaf->s[i]) == 0 || obd_start(&leaf->s[i]) < end)
                return false;
            end = obd_end(&leaf->s[i]);
            stored += obd_zeroed(&leaf->s[i]) ? 0 : obd_length(&leaf->s[i]);
            count++;
        }
    }
    return count == live->count && stored == live->stored;
}
