/* SPDX-License-Identifier: Apache-2.0 */
/* live - an index that changes: insert, split, look up.
 *
 * Segments in order and apart, in leaves of up to OBD_LEAF_MAX.  A look-up is
 * two searches by halves, an insert moves at most one leaf: 4 KiB.  It does
 * no locking; the upper layer does.
 */

#ifndef OBD_LIVE_H
#define OBD_LIVE_H

#include <stdbool.h>

#include "obd.h"

/* 4 KiB a leaf.  A leaf twice as long makes inserts at random a third slower
 * with a million segments, one half as long doubles the list of leaves.
 */
#define OBD_LEAF_MAX 256

struct obd_live;

/* Told of every stored piece that an insert hides: sectors of the layer. */
typedef void obd_hidden(void *context, uint64_t moffset, uint64_t length);

extern struct obd_live *obd_live_new(void) OBD_MUST_USE;

extern void obd_live_free(struct obd_live *live);

/* Put s, of at least one sector, over what is there.  Where it continues a
 * neighbour, the two become one.  On OBD_NOMEM nothing has changed.
 */
extern int obd_live_insert(struct obd_live *live, struct obd_segment s,
                           obd_hidden *hidden, void *context)
    OBD_NONNULL(1) OBD_MUST_USE;

/* Take the sectors from start to end out. */
extern int obd_live_remove(struct obd_live *live, uint64_t start,
                           uint64_t end, obd_hidden *hidden, void *context)
    OBD_NONNULL(1) OBD_MUST_USE;

/* The segments that cover sectors from start to end, cut to that range, at
 * most cap of them.  *upto is the sector before which the answer is whole.
 */
extern size_t obd_live_collect(const struct obd_live *live, uint64_t start,
                               uint64_t end, struct obd_segment *out,
                               size_t cap, uint64_t *upto)
    OBD_NONNULL(1, 4, 6);

/* How many segments there are. */
extern uint64_t obd_live_count(const struct obd_live *live) OBD_NONNULL(1);

/* Sectors of all that are not zeroed. */
extern uint64_t obd_live_stored(const struct obd_live *live) OBD_NONNULL(1);

extern size_t obd_live_memory(const struct obd_live *live) OBD_NONNULL(1);

/* Whether all that must always hold does; O(n), for tests. */
extern bool obd_live_check(const struct obd_live *live) OBD_NONNULL(1);

#endif
