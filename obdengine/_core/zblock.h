/* SPDX-License-Identifier: Apache-2.0 */
/* zblock - ZFile blocks: compressed bytes, then four bytes of crc when the
 * file says verify.  The crc covers the compressed bytes, seed 100007.
 */

#ifndef OBD_ZBLOCK_H
#define OBD_ZBLOCK_H

#include "codec.h"
#include "obd.h"

#define OBD_BLOCK_SEED UINT32_C(100007)
#define OBD_CRC_SIZE 4

/* The most bytes that one block of size bytes takes in the file. */
extern size_t obd_zblock_bound(int algo, size_t size, int verify);

/* Verify and inflate one stored block of n bytes to exactly dst[size].  On
 * failure dst is unspecified and *fault has got and want.
 */
extern int obd_zblock_decode(struct obd_codec *c, int algo, int verify,
                             const uint8_t *src, size_t n,
                             uint8_t *dst, size_t size,
                             struct obd_fault *fault)
    OBD_NONNULL(1, 4, 6, 8) OBD_MUST_USE;

/* Compress src[n], cut in blocks of block_size (the last may be short), into
 * dst[cap], stored blocks end to end; lengths[i] is what block i takes.
 * cap must be at least the sum of the bounds of the blocks.
 */
extern int obd_zblock_encode(int algo, int level, uint32_t block_size,
                             int verify, const uint8_t *src, size_t n,
                             uint8_t *dst, size_t cap, uint32_t *lengths,
                             size_t *written)
    OBD_NONNULL(5, 7, 9, 10) OBD_MUST_USE;

/* One block through the calling thread's own contexts. */
extern int obd_zblock_decode_one(int algo, int verify, const uint8_t *src,
                                 size_t n, uint8_t *dst, size_t size,
                                 struct obd_fault *fault)
    OBD_NONNULL(3, 5, 7) OBD_MUST_USE;

#endif
