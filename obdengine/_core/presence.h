/* SPDX-License-Identifier: Apache-2.0 */
/* presence - which units of a file are on this machine, and their sums.
 *
 * A unit is there as a whole or not at all.  A guarded file is a cache that
 * anything may happen to: others punch holes into it, a disk rots.  So every
 * unit has a checksum in memory, which each read compares.  A unit that does
 * not match is forgotten and was never there.
 *
 *   sum of unit u = crc32c(seed of u, its bytes)
 *   seed of u     = crc32c(seed of the file, u as 8 bytes)
 *
 * and 1 where that is 0.
 *
 * Units may also be lent: they are in the spare file and not in the file.
 * Everything but begin and end may run from any thread at the same time.
 */

#ifndef OBD_PRESENCE_H
#define OBD_PRESENCE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "obd.h"

/* Units of a guarded file: edges of a read go through the stack. */
#define OBD_GUARD_SHIFT 12

/* Use is remembered in steps of 1 MiB. */
#define OBD_USE_SHIFT 20

struct obd_presence {
    _Atomic uint64_t *here;     /* a bit a unit; NULL: all of it is here */
    _Atomic uint64_t *lent;     /* likewise; NULL: not guarded */
    _Atomic uint32_t *sums;     /* one a unit */
    _Atomic uint8_t *used;      /* one a step */
    uint64_t size;              /* bytes of the file */
    unsigned shift;
    uint32_t seed;
    int spare;                  /* descriptor */
};

/* Nothing of a file of that size is here.  p is all zero before. */
extern int obd_presence_begin(struct obd_presence *p, uint64_t size,
                              unsigned shift)
    OBD_NONNULL(1) OBD_MUST_USE;

/* Compare sums from now on; before the first unit is here. */
extern int obd_presence_guard(struct obd_presence *p, uint32_t seed,
                              int spare)
    OBD_NONNULL(1) OBD_MUST_USE;

extern void obd_presence_end(struct obd_presence *p) OBD_NONNULL(1);

/* Bytes of memory, as far as it was ever touched at most. */
extern size_t obd_presence_memory(const struct obd_presence *p)
    OBD_NONNULL(1);

/* The size bytes at offset are here.  Units that are covered in part are
 * left as they are.  Not for a guarded file.
 */
extern void obd_presence_mark(struct obd_presence *p, uint64_t offset,
                              uint64_t size)
    OBD_NONNULL(1);

/* The n units from first may be here, with these sums; a sum of 0 says
 * nothing of its unit.  is_lent: they are in the spare file.
 */
extern void obd_presence_adopt(struct obd_presence *p, uint64_t first,
                               const uint32_t *sums, size_t n, int is_lent)
    OBD_NONNULL(1, 3);

/* Units that the size bytes at offset touch are not here any more. */
extern void obd_presence_forget(struct obd_presence *p, uint64_t offset,
                                uint64_t size)
    OBD_NONNULL(1);

/* Whether all of that range is here. */
extern bool obd_presence_here(const struct obd_presence *p, uint64_t offset,
                              uint64_t size)
    OBD_NONNULL(1);

/* Fill buf with the size bytes at offset.  OBD_ABSENT where they are not
 * here, or not what they were.
 */
extern int obd_presence_read(struct obd_presence *p, int fd, uint64_t offset,
                             uint8_t *buf, size_t size,
                             struct obd_fault *fault)
    OBD_NONNULL(1, 6) OBD_MUST_USE;

/* Set a byte for each step, n at most, that was read since the last call. */
extern void obd_presence_take_used(struct obd_presence *p, uint8_t *used,
                                   size_t n)
    OBD_NONNULL(1, 2);

/* Sums of the units that data, from the start of unit first, is made of. */
extern void obd_presence_sums(uint32_t seed, uint64_t first,
                              const uint8_t *data, size_t size, uint32_t *sums)
    OBD_NONNULL(5);

#endif
