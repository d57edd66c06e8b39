/* SPDX-License-Identifier: Apache-2.0 */
/* inflated - blocks that were inflated for a part of them, for who wants more.
 *
 * One cache for the process, of OBD_INFLATED_MOST blocks of any ZFiles.  It
 * takes memory as blocks come, and keeps it.  Blocks that a read wants whole
 * never come here: they go straight where they are wanted.  (chunks.h is the
 * same for spans, which are large, few and slow to inflate.)
 */

#ifndef OBD_INFLATED_H
#define OBD_INFLATED_H

#include <stdbool.h>

#include "obd.h"

/* 64 KiB each: 16 MiB.  A machine that starts comes back to some hundred
 * blocks; more than that is better kept as pages by the guest.
 */
#define OBD_INFLATED_MOST 256

/* Copy size bytes at skip of a block into buf: false when it is not here. */
extern bool obd_inflated_copy(uint64_t blob, uint64_t block, size_t skip,
                              uint8_t *buf, size_t size)
    OBD_NONNULL(4) OBD_MUST_USE;

/* Keep *bytes, OBD_BLOCK_MAX long and from malloc, as that block; *bytes is
 * another such afterwards.  Without memory for that nothing is kept.
 */
extern void obd_inflated_keep(uint64_t blob, uint64_t block, uint8_t **bytes)
    OBD_NONNULL(3);

/* Bytes that are kept. */
extern size_t obd_inflated_memory(void);

/* Free all of it; for leak checks, when no request runs. */
extern void obd_inflated_drain(void);

#endif
