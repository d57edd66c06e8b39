/* SPDX-License-Identifier: Apache-2.0 */
/* jump - where each block of a ZFile starts, from its table of lengths.
 *
 * Four bytes a block: a 32-bit offset within a group of 2^15 blocks, and 64
 * bits a group.  The table comes from outside, chunk by chunk, and memory
 * grows with what has come, never with what a header claims.
 */

#ifndef OBD_JUMP_H
#define OBD_JUMP_H

#include <stdbool.h>

#include "obd.h"

#define OBD_GROUP_SHIFT 15

struct obd_jump {
    uint64_t nblocks;           /* blocks seen so far, at the end all */
    uint64_t expected;
    uint64_t size;              /* bytes when inflated */
    uint64_t next;              /* offset after the last block seen */
    uint64_t end;               /* where the blocks must end */
    uint64_t capacity;          /* of rel, less one */
    uint32_t *rel;              /* nblocks + 1 of them */
    uint64_t *base;             /* one a group */
    uint32_t crc;               /* of the bytes fed */
    int algo;
    bool verify;
    unsigned block_shift;
};

/* A table for size bytes cut in blocks of 1 << block_shift, stored from
 * offset first to offset end of the payload.  NULL without memory.
 */
extern struct obd_jump *obd_jump_new(int algo, int verify,
                                     unsigned block_shift, uint64_t size,
                                     uint64_t first, uint64_t end)
    OBD_MUST_USE;

extern void obd_jump_free(struct obd_jump *j);

/* The next n lengths, 32 bits each, little-endian.  On failure fault->block
 * is the number of the block that is wrong, and the table is unusable.
 */
extern int obd_jump_feed(struct obd_jump *j, const uint8_t *src, size_t n,
                         struct obd_fault *fault)
    OBD_NONNULL(1, 2, 4) OBD_MUST_USE;

/* All lengths were fed: check their number and their sum. */
extern int obd_jump_finish(const struct obd_jump *j, struct obd_fault *fault)
    OBD_NONNULL(1, 2) OBD_MUST_USE;

extern uint32_t obd_jump_crc(const struct obd_jump *j) OBD_NONNULL(1);

extern uint64_t obd_jump_blocks(const struct obd_jump *j) OBD_NONNULL(1);

/* Offset of block i in the payload; i may be the number of blocks. */
extern uint64_t obd_jump_offset(const struct obd_jump *j, uint64_t i)
    OBD_NONNULL(1);

/* Bytes of memory that the table takes. */
extern size_t obd_jump_memory(const struct obd_jump *j) OBD_NONNULL(1);

static inline uint64_t
obd_jump_at(const struct obd_jump *j, uint64_t i)
{
    return j->base[i >> OBD_GROUP_SHIFT] + j->rel[i];
}

/* Bytes that block i inflates to. */
static inline size_t
obd_jump_inflated(const struct obd_jump *j, uint64_t i)
{
    uint64_t left = j->size - (i << j->block_shift);
    uint64_t whole = UINT64_C(1) << j->block_shift;

    return (size_t)(left < whole ? left : whole);
}

#endif
