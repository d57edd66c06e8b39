/* SPDX-License-Identifier: Apache-2.0 */
/* split - see split.h. */

#include "split.h"

#include <stdatomic.h>

#include "bytes.h"
#include "helpers.h"

/* More pieces than processors, as none of them is equally hard. */
#define PIECES 8
#define PIECE_LEAST ((size_t)64 << 10)

struct pieces {
    const struct obd_split *split;
    uint8_t *buf;
    uint64_t from[PIECES + 1];  /* of the disk */
    int status[PIECES];
    struct obd_fault faults[PIECES];
};

/* Large reads of the process that run now: where there are two, each has a
 * processor, and none is idle.
 */
static _Atomic unsigned running;

static int
read_piece(void *arg, size_t i)
{
    struct pieces *p = arg;

    p->status[i] = p->split->read(p->split->of, p->from[i],
                                  p->buf + (p->from[i] - p->from[0]),
                                  (size_t)(p->from[i + 1] - p->from[i]),
                                  &p->faults[i]);
    return p->status[i];
}

/* The first place from offset on where a block begins, or the end of its
 * segment: cut elsewhere, a block would be inflated twice.  0 when what is
 * there is not compressed.
 */
static uint64_t
next_block(const struct obd_split *s, uint64_t offset)
{
    const struct obd_segment *g
        = &s->map->segments[obd_segmap_find(s->map,
                                            offset >> OBD_SECTOR_SHIFT)];
    uint64_t start = obd_start(g) << OBD_SECTOR_SHIFT;

    if (start > offset || obd_zeroed(g))
        return 0;
    uint64_t block = obd_blob_block(s->blobs[obd_tag(g)]);
    uint64_t stream = (obd_moffset(g) << OBD_SECTOR_SHIFT) + (offset - start);

    if (block == 0)
        return 0;
    return obd_min(offset + (-stream & (block - 1)),
                   obd_end(g) << OBD_SECTOR_SHIFT);
}

/* Cut a read in pieces; returns how many, 1 when that is of no use. */
static size_t
cut(struct pieces *p, uint64_t offset, size_t size)
{
    size_t most = obd_min(size / PIECE_LEAST, PIECES), n = 1;

    p->from[0] = offset;
    for (size_t i = 1; i < most; i++) {
        uint64_t at = next_block(p->split, offset + size / most * i);

        if (at > p->from[n - 1] && at < offset + size)
            p->from[n++] = at;
    }
    p->from[n] = offset + size;
    return n;
}

/* False when nobody helps. */
static bool
read_together(const struct obd_split *s, uint64_t offset, uint8_t *buf,
              size_t size, int *status, struct obd_fault *fault)
{
    struct pieces p = { .split = s, .buf = buf };
    size_t n = cut(&p, offset, size);

    if (n < 2 || !obd_helpers_share(read_piece, &p, n))
        return false;
    *status = OBD_OK;
    for (size_t i = 0; i < n && *status == OBD_OK; i++) {
        *status = p.status[i];
        *fault = p.faults[i];
    }
    return true;
}

int
obd_split_read(const struct obd_split *s, uint64_t offset, uint8_t *buf,
               size_t size, struct obd_fault *fault)
{
    int status;

    if (atomic_fetch_add(&running, 1) != 0
        || !read_together(s, offset, buf, size, &status, fault))
        status = s->read(s->of, offset, buf, size, fault);
    atomic_fetch_sub(&running, 1);
    return status;
}
