/* SPDX-License-Identifier: Apache-2.0 */
/* upper - a writable layer: a data file, and a log of index records.
 *
 * Append form: new data goes to new places of the data file.  In-place form:
 * sector s of the disk is at sector 8 + s of the data file, and the log says
 * which sectors count.  Both have the same log, replay and flush.
 *
 * A record counts if and only if
 *   (1) all of its 16 bytes are in the index file;
 *   (2) it is not padding, and has a length;
 *   (3) it ends on the disk;
 *   (4) unless it is zeroed, its data lies between sector 8 and the end of
 *       the data file, and in place, where its start says.
 * Records that count are applied in the order of the file; the others are
 * stepped over, and made padding when the layer is opened for writing.
 *
 * So that what counts is true after a power cut at any point,
 *   (a) a record is written only when the data it points to was synced;
 *   (b) a flush returns when the record was synced too, or a journal of both;
 *   (c) data is written over only when no record that still counts points to
 *       it, the records that hide it were synced, and no reader is on it;
 *   (d) opening syncs both files before (c) believes anything.
 * The log has no checksum, because overlaybd's has none: what is safe is the
 * order of writes, not the bytes.
 *
 * Everything here may run from any thread at the same time.  The upper
 * borrows its descriptors.
 */

#ifndef OBD_UPPER_H
#define OBD_UPPER_H

#include <stdbool.h>

#include "io.h"
#include "obd.h"

struct obd_upper;

struct obd_upper_setup {
    uint64_t disk_end;          /* sectors of the disk */
    uint64_t data_limit;        /* sectors that the data file may have; in
                                 * place, that may be written */
    uint64_t allowance;         /* sectors of garbage that are let be */
    int data_fd;
    int index_fd;
    int in_place;
    int patience;               /* small flushes until a journal is wanted;
                                 * 0 never */
};

/* What replay stepped over, and what the log holds. */
struct obd_upper_facts {
    uint64_t records;           /* in the index file, all of them */
    uint64_t padding;
    uint64_t empty;             /* broke rule (2): torn or never written */
    uint64_t beyond_disk;       /* broke rule (3) */
    uint64_t dangling;          /* broke rule (4) */
    uint64_t segments;          /* in the index now */
    uint64_t stored;            /* sectors that have data */
    uint64_t data_end;          /* sectors of the data file in use */
    uint64_t unused;            /* of those, garbage that may be reused */
    uint64_t pending;           /* records that no flush has written yet */
    uint64_t journaled;         /* records that only the journal has */
    uint64_t flushes;           /* rounds of syncs, each for many callers */
};

/* io NULL: the kernel's.  NULL without memory. */
extern struct obd_upper *obd_upper_new(const struct obd_upper_setup *setup,
                                       const struct obd_io *io)
    OBD_NONNULL(1) OBD_MUST_USE;

extern void obd_upper_free(struct obd_upper *u);

/* The next n records of the index file.  With repair those that do not count
 * are made padding there.
 */
extern int obd_upper_replay(struct obd_upper *u, const uint8_t *src, size_t n,
                            uint64_t data_sectors, int repair,
                            struct obd_fault *fault)
    OBD_NONNULL(1, 2, 6) OBD_MUST_USE;

/* All records were replayed: get ready for writes.  data_sectors: where the
 * data file ends.
 */
extern int obd_upper_start(struct obd_upper *u, uint64_t data_sectors,
                           struct obd_fault *fault)
    OBD_NONNULL(1, 3) OBD_MUST_USE;

/* Write length sectors at start.  OBD_FULL, fault->got ENOSPC or EDQUOT: no
 * room, not even after flushes that turned garbage into room, or more live
 * data than the limit leaves room for (quota.c); OBD_IO: the
 * kernel refused; what was there before a failed write or what it brought is
 * there now, sector by sector.
 */
extern int obd_upper_write(struct obd_upper *u, uint64_t start,
                           uint64_t length, const uint8_t *buf,
                           struct obd_fault *fault)
    OBD_NONNULL(1, 4, 5) OBD_MUST_USE;

/* Make length sectors from start read as zeros, whatever is below. */
extern int obd_upper_zero(struct obd_upper *u, uint64_t start,
                          uint64_t length, struct obd_fault *fault)
    OBD_NONNULL(1, 4) OBD_MUST_USE;

/* Make everything durable that was written before the call.  Callers at the
 * same time share the syncs.  After a sync failed every flush fails: what the
 * kernel dropped then cannot be known.
 */
extern int obd_upper_flush(struct obd_upper *u, struct obd_fault *fault)
    OBD_NONNULL(1, 2) OBD_MUST_USE;

/* The same, and what a journal holds is in the two files then. */
extern int obd_upper_checkpoint(struct obd_upper *u, struct obd_fault *fault)
    OBD_NONNULL(1, 2) OBD_MUST_USE;

/* A reader holds what it found in the index from enter to leave; enter gives
 * what leave wants.
 */
extern unsigned obd_upper_enter(struct obd_upper *u) OBD_NONNULL(1);
extern void obd_upper_leave(struct obd_upper *u, unsigned ticket)
    OBD_NONNULL(1);

/* As obd_live_collect. */
extern size_t obd_upper_collect(struct obd_upper *u, uint64_t start,
                                uint64_t end, struct obd_segment *out,
                                size_t cap, uint64_t *upto)
    OBD_NONNULL(1, 4, 6);

/* Fill buf with the size bytes at offset of the data file. */
extern int obd_upper_read(const struct obd_upper *u, uint64_t offset,
                          uint8_t *buf, size_t size, struct obd_fault *fault)
    OBD_NONNULL(1, 3, 5) OBD_MUST_USE;

extern void obd_upper_facts(struct obd_upper *u, struct obd_upper_facts *facts)
    OBD_NONNULL(1, 2);

/* Whether most records of the index file are of no use any more, so that it
 * is worth writing anew.
 */
extern bool obd_upper_wants_compaction(struct obd_upper *u)
    OBD_NONNULL(1) OBD_MUST_USE;

/* Write the index as it is now, and synced, to another file from offset 4096
 * on, in the order of the disk.  Until obd_upper_index_end no flush ends:
 * the caller puts the file in the place of the old one, and says whether
 * that worked: 1 yes, 0 no.  An errno, negative: a power cut may leave the
 * one or the other, so that every flush from now on fails with it.
 */
extern int obd_upper_index_begin(struct obd_upper *u, int fd,
                                 struct obd_fault *fault)
    OBD_NONNULL(1, 3) OBD_MUST_USE;
extern void obd_upper_index_end(struct obd_upper *u, int done)
    OBD_NONNULL(1);

/* From now on a new index file has no record that reaches over sector at; 0:
 * any may.  So the disk can end there, while all before it still counts.
 */
extern void obd_upper_split_at(struct obd_upper *u, uint64_t at)
    OBD_NONNULL(1);

/* Take everything from sector end on out of the index, once the disk ends
 * there: no record of it counts any more, until a new index file is without.
 */
extern int obd_upper_forget(struct obd_upper *u, uint64_t end)
    OBD_NONNULL(1) OBD_MUST_USE;

#endif
