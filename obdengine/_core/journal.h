/* SPDX-License-Identifier: Apache-2.0 */
/* journal - a file beside the append form's two, that makes a small flush
 * durable with one sync of what has its place on the disk already.
 *
 * It has a header of one sector, then entries, each the records and the data
 * of one flush.  An entry counts if and only if
 *   (1) the header is whole, and has the uuid of the upper;
 *   (2) it is of the header's generation, and whole: its checksum, which
 *       covers all of its sectors, is right;
 *   (3) the entries before it count, and it has the number that follows;
 *   (4) each of its records has a length, ends on the disk, and unless it is
 *       zeroed has its data in the entry;
 *   (5) where its records belong in the index file, and those of all entries
 *       before, there is nothing else: that record, padding, or nothing.
 * The first that breaks (1) to (4) ends the journal; if any breaks (5),
 * somebody who knows of no journal wrote to the upper since, and none counts.
 * Those that count are applied in order, after the records of the index file.
 *
 * So that this is true after a power cut at any point,
 *   (a) what is in the journal and not in the index file, which are its kept
 *       records, is written there before anything that is newer;
 *   (b) a checkpoint syncs the data, then the index file with the kept
 *       records, then a header of the next generation, in this order;
 *   (c) data that kept records hide is written over after that only, and so
 *       is data that the journal holds;
 *   (d) a flush that is not written to the journal is such a checkpoint.
 */

#ifndef OBD_JOURNAL_H
#define OBD_JOURNAL_H

#include <stdbool.h>

#include "upper.h"

#define OBD_JOURNAL_HEADER 512
#define OBD_JOURNAL_UUID 36

enum obd_journal_state {
    OBD_JOURNAL_EMPTY = 0,
    OBD_JOURNAL_KEEPS,          /* it has entries that count */
    OBD_JOURNAL_STRAY,          /* broke rule (1) */
    OBD_JOURNAL_PAST            /* broke rule (5) */
};

/* What was in a journal. */
struct obd_journal_found {
    uint64_t entries;
    uint64_t records;
    int state;
};

extern void obd_journal_header(const uint8_t *uuid, uint64_t generation,
                               uint8_t *dst)
    OBD_NONNULL(1, 3);

/* The index file was replayed: apply the journal of size bytes.  With repair
 * it is empty afterwards, and all of it in the two files; without, it is only
 * looked at.
 */
extern int obd_upper_recover(struct obd_upper *u, int fd, uint64_t size,
                             const uint8_t *uuid, int repair,
                             struct obd_journal_found *found,
                             struct obd_fault *fault)
    OBD_NONNULL(1, 4, 6, 7) OBD_MUST_USE;

/* Whether so many small flushes came one after the other that a journal
 * would pay.
 */
extern bool obd_upper_wants_journal(struct obd_upper *u)
    OBD_NONNULL(1) OBD_MUST_USE;

/* Use a journal from now on, which is empty, has size bytes, all of them on
 * the disk, and is borrowed.
 */
extern int obd_upper_use_journal(struct obd_upper *u, int fd, uint64_t size,
                                 struct obd_fault *fault)
    OBD_NONNULL(1, 4) OBD_MUST_USE;

/* Checkpoint, and use no journal from now on; never: nor want one.  When it
 * fails the journal stays in use.
 */
extern int obd_upper_end_journal(struct obd_upper *u, int never,
                                 struct obd_fault *fault)
    OBD_NONNULL(1, 3) OBD_MUST_USE;

#endif
