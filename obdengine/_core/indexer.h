/* SPDX-License-Identifier: Apache-2.0 */
/* indexer - inflate a gzip or zstd file once, and say where points are.
 *
 * It is fed what it wants next of the file, and gives what that inflates to
 * and at which places reading can start later.  crc and size of every gzip
 * member, and the checksums of zstd, are verified on the way.
 */

#ifndef OBD_INDEXER_H
#define OBD_INDEXER_H

#include "obd.h"

enum obd_index_event {
    OBD_INDEX_NONE = 0,         /* dst is full, or src is used up */
    OBD_INDEX_POINT = 1,        /* reading can start here */
    OBD_INDEX_END = 2           /* a member or frame has ended */
};

struct obd_index_step {
    uint64_t used;              /* bytes of src */
    uint64_t made;              /* bytes of dst */
    uint64_t out;               /* where it stands now, inflated, */
    uint64_t in;                /* and in the file */
    int event;
    int bits;                   /* of a point, as an index entry has them */
};

struct obd_indexer;

/* kind: OBD_SPANS_GZIP or OBD_SPANS_ZSTD.  Points are at least span bytes
 * apart.  NULL without memory.
 */
extern struct obd_indexer *obd_indexer_new(int kind, uint64_t span)
    OBD_MUST_USE;

extern void obd_indexer_free(struct obd_indexer *x);

/* Go on with src[n], into dst[cap], up to the next event.  OBD_POINT_FAR when
 * no point came for so long that a span would be too long; OBD_BAD_MEMBER
 * when the file is damaged (fault->at: where; got: 0 it does not inflate, 1
 * its crc, 2 its size is another).
 */
extern int obd_indexer_step(struct obd_indexer *x, const uint8_t *src,
                            size_t n, uint8_t *dst, size_t cap,
                            struct obd_index_step *step,
                            struct obd_fault *fault)
    OBD_NONNULL(1, 2, 4, 6, 7) OBD_MUST_USE;

/* After the end of a member or frame: what follows is another, and may be a
 * point.
 */
extern int obd_indexer_next(struct obd_indexer *x,
                            struct obd_index_step *step)
    OBD_NONNULL(1, 2) OBD_MUST_USE;

/* The 32 KiB that were inflated before a point, zeros before the start. */
extern void obd_indexer_window(struct obd_indexer *x, uint8_t *dst)
    OBD_NONNULL(1, 2);

#endif
