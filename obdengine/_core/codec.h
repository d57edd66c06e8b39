/* SPDX-License-Identifier: Apache-2.0 */
/* codec - one block through liblz4 or libzstd.
 *
 * The numbers are those of the ZFile header's algo field.
 */

#ifndef OBD_CODEC_H
#define OBD_CODEC_H

#include <stdbool.h>

#include "obd.h"

enum obd_algo {
    OBD_ALGO_NONE = 0,
    OBD_ALGO_LZ4 = 1,           /* raw LZ4 block */
    OBD_ALGO_ZSTD = 2           /* one zstd frame */
};

#define OBD_BLOCK_MIN 4096
#define OBD_BLOCK_MAX 65536

/* Contexts that are costly to make; part of a scratch. */
struct obd_codec {
    void *inflate;              /* ZSTD_DCtx, made when first needed */
    void *deflate;              /* ZSTD_CCtx, likewise */
    void *gunzip;               /* z_stream, likewise */
    uint8_t *bulk;              /* for frames that no block holds */
    size_t bulk_size;
};

extern bool obd_codec_known(int algo);

/* The most bytes that size bytes can become, without the crc. */
extern size_t obd_codec_bound(int algo, size_t size);

/* Inflate src[n] to exactly dst[size].  On failure dst is unspecified, at
 * most size bytes of it were written, and fault->got is what it gave.
 */
extern int obd_codec_inflate(struct obd_codec *c, int algo,
                             const uint8_t *src, size_t n,
                             uint8_t *dst, size_t size,
                             struct obd_fault *fault)
    OBD_NONNULL(1, 3, 5, 7) OBD_MUST_USE;

/* Compress src[n] into dst[cap], cap at least the bound.  level: zstd's own
 * levels; for lz4 below 3 the fast compressor, from 3 the high one, as the
 * lz4 command has it.
 */
extern int obd_codec_deflate(struct obd_codec *c, int algo, int level,
                             const uint8_t *src, size_t n,
                             uint8_t *dst, size_t cap, size_t *stored)
    OBD_NONNULL(1, 4, 6, 8) OBD_MUST_USE;

extern void obd_codec_clear(struct obd_codec *c) OBD_NONNULL(1);

#endif
