/* SPDX-License-Identifier: Apache-2.0 */
/* split - a large read of compressed layers, shared with idle processors.
 *
 * It knows where to cut, and asks helpers.h; reading is done by who calls.
 */

#ifndef OBD_SPLIT_H
#define OBD_SPLIT_H

#include "blob.h"
#include "obd.h"
#include "segmap.h"

/* A read of fewer bytes is not worth waking anybody: that takes as long as
 * inflating 64 KiB of lz4.
 */
#define OBD_SPLIT_FROM ((size_t)256 << 10)

/* What is read: segments of map are in the blob of their tag.  read is as
 * obd_device_read, may be called from other threads, and gets of.
 */
struct obd_split {
    const struct obd_segmap *map;
    struct obd_blob *const *blobs;
    const void *of;
    int (*read)(const void *of, uint64_t offset, uint8_t *buf, size_t size,
                struct obd_fault *fault);
};

/* Fill buf with the size bytes at offset, by one call of read or by some at the
 * same time.  Of several that fail *fault and the result are of the first on
 * the disk, and buf is unspecified.
 */
extern int obd_split_read(const struct obd_split *s, uint64_t offset,
                          uint8_t *buf, size_t size, struct obd_fault *fault)
    OBD_NONNULL(1, 3, 5) OBD_MUST_USE;

#endif
