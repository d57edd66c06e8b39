/* SPDX-License-Identifier: Apache-2.0 */
/* device - a stack of layers as one disk: reads, writes and extents.
 *
 * A device borrows its blobs, its map and its upper; the caller frees them
 * after it.  Everything here may run from any thread at the same time.
 */

#ifndef OBD_DEVICE_H
#define OBD_DEVICE_H

#include "blob.h"
#include "obd.h"
#include "segmap.h"
#include "upper.h"

struct obd_device;

/* size in bytes; blobs[i] belongs to the segments with tag i.  The array is
 * copied.  upper NULL: the disk is read-only; else it is layer nblobs.  NULL
 * without memory, when a tag has no blob, or past 2^50 sectors.
 */
extern struct obd_device *obd_device_new(struct obd_blob *const *blobs,
                                         size_t nblobs,
                                         const struct obd_segmap *map,
                                         struct obd_upper *upper,
                                         uint64_t size)
    OBD_NONNULL(1, 3) OBD_MUST_USE;

extern void obd_device_free(struct obd_device *d);

/* Fill buf with the size bytes at offset, any alignment.  On failure buf is
 * unspecified, fault->layer is the layer, and the rest is as obd_blob_read
 * leaves it.
 */
extern int obd_device_read(const struct obd_device *d, uint64_t offset,
                           uint8_t *buf, size_t size,
                           struct obd_fault *fault)
    OBD_NONNULL(1, 5) OBD_MUST_USE;

/* Write size bytes at offset.  A sector that is written in part is read
 * first, so this can fail as a read does; else as obd_upper_write.
 * OBD_READ_ONLY without an upper.
 */
extern int obd_device_write(struct obd_device *d, uint64_t offset,
                            const uint8_t *buf, size_t size,
                            struct obd_fault *fault)
    OBD_NONNULL(1, 5) OBD_MUST_USE;

/* Make size bytes at offset read as zeros, without storing them. */
extern int obd_device_zero(struct obd_device *d, uint64_t offset,
                           uint64_t size, struct obd_fault *fault)
    OBD_NONNULL(1, 4) OBD_MUST_USE;

/* The same for the whole sectors of the range only. */
extern int obd_device_discard(struct obd_device *d, uint64_t offset,
                              uint64_t size, struct obd_fault *fault)
    OBD_NONNULL(1, 4) OBD_MUST_USE;

/* Make durable what was written; nothing to do without an upper. */
extern int obd_device_flush(struct obd_device *d, struct obd_fault *fault)
    OBD_NONNULL(1, 2) OBD_MUST_USE;

/* Whether Python has something to do for the upper after a flush: an index
 * file or a journal to make.
 */
extern bool obd_device_wants_upkeep(const struct obd_device *d)
    OBD_NONNULL(1);

/* As obd_window_find, of the disk from offset on; *size > 0, within it.  Also
 * NULL where a layer does not have it just so.
 */
extern const uint8_t *obd_device_window(const struct obd_device *d,
                                        uint64_t offset, uint64_t *size)
    OBD_NONNULL(1, 3) OBD_MUST_USE;

enum obd_extent_flags {
    OBD_EXTENT_ZERO = 1,        /* reads as zeros */
    OBD_EXTENT_DATA = 2,        /* bytes are stored for it */
    OBD_EXTENT_PRESENT = 4      /* and they are on this machine */
};

#define OBD_NO_LAYER UINT32_MAX

struct obd_extent {
    uint64_t offset;            /* bytes of the disk */
    uint64_t size;
    uint32_t layer;             /* OBD_NO_LAYER where nothing is mapped */
    uint32_t flags;
};

/* Describe up to size bytes from offset in at most cap extents, each as long
 * as it can be; *n is how many.  They cover the range from offset on without
 * gaps, all of it unless *n is cap.
 */
extern int obd_device_extents(const struct obd_device *d, uint64_t offset,
                              uint64_t size, struct obd_extent *out,
                              size_t cap, size_t *n, struct obd_fault *fault)
    OBD_NONNULL(1, 4, 6, 7) OBD_MUST_USE;

/* Bytes of a layer's file, or of its stream. */
struct obd_range {
    uint64_t offset;
    uint64_t size;
    uint32_t layer;
};

enum obd_ranges {
    OBD_RANGES_STORED,          /* of the files */
    OBD_RANGES_ABSENT,          /* of those, what is not here */
    OBD_RANGES_STREAM           /* of the streams */
};

/* Which bytes of which layers the size bytes at offset are made from, in disk
 * order, at most cap ranges; which: one of obd_ranges.
 */
extern int obd_device_ranges(const struct obd_device *d, uint64_t offset,
                             uint64_t size, int which,
                             struct obd_range *out, size_t cap, size_t *n,
                             struct obd_fault *fault)
    OBD_NONNULL(1, 5, 7, 8) OBD_MUST_USE;

#endif
