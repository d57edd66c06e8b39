/* SPDX-License-Identifier: Apache-2.0 */
/* space - see space.h. */

#include "space.h"

#include "bytes.h"

/* Pieces that one search looks at.  More find better fits in a crumbled log,
 * and every write waits for the search.
 */
#define LOOKED_AT 32

/* Sectors: garbage shorter than this is not worth cutting a write for. */
#define CRUMB 64

int
obd_space_init(struct obd_space *s, uint64_t end, uint64_t limit,
               uint64_t allowance)
{
    *s = (struct obd_space){ .end = end, .limit = limit,
                             .allowance = allowance };
    s->unused = obd_live_new();
    return s->unused == NULL ? OBD_NOMEM : OBD_OK;
}

void
obd_space_clear(struct obd_space *s)
{
    obd_live_free(s->unused);
    s->unused = NULL;
}

uint64_t
obd_space_unused(const struct obd_space *s)
{
    return obd_live_stored(s->unused);
}

/* The first of n pieces that is long enough, else the longest. */
static struct obd_segment
choose(const struct obd_segment *pieces, size_t n, uint64_t want)
{
    size_t best = 0;

    for (size_t i = 0; i < n; i++) {
        if (obd_length(&pieces[i]) > obd_length(&pieces[best]))
            best = i;
        if (obd_length(&pieces[i]) >= want)
            return pieces[i];
    }
    return pieces[best];
}

static int
take_unused(struct obd_space *s, uint64_t want, uint64_t least,
            uint64_t *start, uint64_t *length)
{
    struct obd_segment pieces[LOOKED_AT];
    uint64_t upto;
    size_t n = obd_live_collect(s->unused, s->cursor, s->end, pieces,
                                LOOKED_AT, &upto);

    if (n == 0)
        n = obd_live_collect(s->unused, 0, s->end, pieces, LOOKED_AT, &upto);
    if (n == 0)
        return OBD_FULL;
    struct obd_segment piece = choose(pieces, n, want);

    if (obd_length(&piece) < least) {
        s->cursor = upto < s->end ? upto : 0;
        return OBD_FULL;
    }
    *start = obd_start(&piece);
    *length = obd_min(want, obd_length(&piece));
    s->cursor = *start + *length;
    return obd_live_remove(s->unused, *start, *start + *length, NULL, NULL);
}

int
obd_space_take(struct obd_space *s, uint64_t want, bool grow,
               uint64_t *start, uint64_t *length)
{
    uint64_t unused = obd_space_unused(s);
    bool room = grow && s->end < s->limit;

    if (unused > s->allowance / 2 || !room) {
        /* Crumbs make many records; above the allowance they are used all
         * the same, which is what bounds the file.
         */
        uint64_t least = room && unused <= s->allowance
                         ? obd_min(want, CRUMB) : 1;
        int status = take_unused(s, want, least, start, length);

        if (status != OBD_FULL || !room)
            return status;
    }
    *start = s->end;
    *length = obd_min(want, s->limit - s->end);
    s->end += *length;
    return OBD_OK;
}

void
obd_space_undo(struct obd_space *s, uint64_t start, uint64_t length)
{
    /* At the end it would look like garbage that has a place on the host. */
    if (start + length == s->end)
        s->end = start;
    else
        obd_space_give(s, start, length);
}

void
obd_space_give(struct obd_space *s, uint64_t start, uint64_t length)
{
    while (length > 0) {
        uint64_t part = obd_min(length, OBD_MAX_LENGTH);
        struct obd_segment piece = {
            .lo = start | part << OBD_START_BITS,
            .hi = start,
        };

        if (obd_live_insert(s->unused, piece, NULL, NULL) != OBD_OK)
            return;
        start += part;
        length -= part;
    }
}
