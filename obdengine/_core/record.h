/* SPDX-License-Identifier: Apache-2.0 */
/* record - the 16-byte index entries of an LSMT layer, out and in. */

#ifndef OBD_RECORD_H
#define OBD_RECORD_H

#include "obd.h"

#define OBD_RECORD_SIZE 16
#define OBD_PADDING_START OBD_START_MASK

/* What entries of one layer must keep to; all in sectors. */
struct obd_bounds {
    uint64_t disk_end;          /* of the disk, 0 for unknown */
    uint64_t data_start;        /* first of the layer's data, 8 */
    uint64_t data_end;          /* first after the layer's data */
};

/* Unpack n entries from src into dst (room for n), dropping padding and
 * clearing tags.  Every other entry must have a length, start at or after
 * the end of the one before, end on the disk, and unless it is zeroed lie
 * within the data.  *count is how many there are.  On failure returns the
 * status, fault->at is the number of the entry, and dst is unspecified.
 */
extern int obd_record_unpack(const uint8_t *src, size_t n,
                             const struct obd_bounds *bounds,
                             struct obd_segment *dst, size_t *count,
                             struct obd_fault *fault)
    OBD_NONNULL(1, 3, 4, 5, 6) OBD_MUST_USE;

/* A segment of a TurboOCI layer whose data is in the target: this bit of its
 * moffset is set in memory, and makes an offset in the stream of a blob with
 * a target (OBD_TARGET_BIT of blob.h).
 */
#define OBD_TARGET_MOFFSET (UINT64_C(1) << (OBD_MOFFSET_BITS - 1))

/* The same for a TurboOCI layer: tags count from the smallest, 0 is as above,
 * 1 is data at moffset of a target of target_end sectors.
 */
extern int obd_record_unpack_turbo(const uint8_t *src, size_t n,
                                   const struct obd_bounds *bounds,
                                   uint64_t target_end,
                                   struct obd_segment *dst, size_t *count,
                                   struct obd_fault *fault)
    OBD_NONNULL(1, 3, 5, 6, 7) OBD_MUST_USE;

/* Pack n segments into dst (16 n bytes), with tag 0. */
extern void obd_record_pack(const struct obd_segment *src, size_t n,
                            uint8_t *dst)
    OBD_NONNULL(1, 3);

#endif
