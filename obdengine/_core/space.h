/* SPDX-License-Identifier: Apache-2.0 */
/* space - which sectors of an append log's data file may be written.
 *
 * The log grows at its end until half an allowance of it is garbage; from
 * then on garbage is written over where a write fits into it, and above the
 * whole allowance wherever it is, so that a busy disk's log does not grow
 * without end.  What is garbage, and since when it is safe to write
 * over, is for the upper layer to know.  It does no locking.
 */

#ifndef OBD_SPACE_H
#define OBD_SPACE_H

#include <stdbool.h>

#include "live.h"
#include "obd.h"

struct obd_space {
    struct obd_live *unused;    /* garbage: moffset is start */
    uint64_t end;               /* the first sector that was never given */
    uint64_t limit;             /* end never passes this */
    uint64_t allowance;         /* sectors of garbage that are let be */
    uint64_t cursor;            /* where the last garbage was taken */
};

extern int obd_space_init(struct obd_space *s, uint64_t end, uint64_t limit,
                          uint64_t allowance)
    OBD_NONNULL(1) OBD_MUST_USE;

extern void obd_space_clear(struct obd_space *s) OBD_NONNULL(1);

/* Take up to want sectors in one piece: *start, *length.  OBD_FULL when
 * there are none.  Without grow they are garbage in any case: the host has no
 * room for more.
 */
extern int obd_space_take(struct obd_space *s, uint64_t want, bool grow,
                          uint64_t *start, uint64_t *length)
    OBD_NONNULL(1, 4, 5) OBD_MUST_USE;

/* Give back what was taken and could not be written. */
extern void obd_space_undo(struct obd_space *s, uint64_t start,
                           uint64_t length)
    OBD_NONNULL(1);

/* Sectors that nothing refers to.  Without memory they are lost until the
 * log is opened again, which does no harm.
 */
extern void obd_space_give(struct obd_space *s, uint64_t start,
                           uint64_t length)
    OBD_NONNULL(1);

extern uint64_t obd_space_unused(const struct obd_space *s) OBD_NONNULL(1);

#endif
