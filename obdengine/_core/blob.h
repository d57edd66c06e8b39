/* SPDX-License-Identifier: Apache-2.0 */
/* blob - the stream of one layer: bytes of a file, as they are or inflated.
 *
 * A blob borrows its file descriptor; the caller keeps it open.  All reads
 * are positional, complete, and may run from any thread at the same time.
 * Bytes of the file that are not on this machine yet are "absent": a presence
 * map says which are there, and a read that needs others says so.
 */

#ifndef OBD_BLOB_H
#define OBD_BLOB_H

#include "jump.h"
#include "obd.h"
#include "presence.h"
#include "scratch.h"
#include "spans.h"

struct obd_blob;

/* Stream = the size bytes at offset of fd.  NULL without memory. */
extern struct obd_blob *obd_blob_new_plain(int fd, uint64_t offset,
                                           uint64_t size)
    OBD_MUST_USE;

/* Stream = what the blocks of jump inflate to; the payload that jump counts
 * from starts at offset of fd.  Takes jump over, also when it returns NULL.
 */
extern struct obd_blob *obd_blob_new_zfile(int fd, uint64_t offset,
                                           struct obd_jump *jump)
    OBD_NONNULL(3) OBD_MUST_USE;

/* Stream = what the spans of fd, a compressed file, inflate to, through the
 * cache of chunks.  Takes spans over, also when it returns NULL.
 */
extern struct obd_blob *obd_blob_new_spans(int fd, struct obd_spans *spans)
    OBD_NONNULL(2) OBD_MUST_USE;

/* Of an offset in the stream or the file: it is one of the target's. */
#define OBD_TARGET_BIT (UINT64_C(1) << 63)

/* A TurboOCI layer: the stream of meta, and with OBD_TARGET_BIT that of
 * target.  Both are borrowed, and keep their own presence.
 */
extern struct obd_blob *obd_blob_new_turbo(const struct obd_blob *meta,
                                           const struct obd_blob *target)
    OBD_NONNULL(1, 2) OBD_MUST_USE;

extern void obd_blob_free(struct obd_blob *b);

/* Bytes of the stream. */
extern uint64_t obd_blob_size(const struct obd_blob *b) OBD_NONNULL(1);

/* Bytes of memory that the blob takes. */
extern size_t obd_blob_memory(const struct obd_blob *b) OBD_NONNULL(1);

/* Which bytes of the file are here: all, unless this says otherwise before
 * the first read.
 */
extern struct obd_presence *obd_blob_presence(struct obd_blob *b)
    OBD_NONNULL(1) OBD_MUST_USE;

/* Fill buf with the size bytes at offset of the stream.  On failure buf is
 * unspecified; fault->at is an offset in the file; OBD_ABSENT: the range of
 * the file from at, want bytes long, is needed.
 */
extern int obd_blob_read(const struct obd_blob *b, uint64_t offset,
                         uint8_t *buf, size_t size,
                         struct obd_scratch *scratch,
                         struct obd_fault *fault)
    OBD_NONNULL(1, 5, 6) OBD_MUST_USE;

/* Whether its stream is its file, as it is: then it can be read so. */
extern bool obd_blob_is_plain(const struct obd_blob *b) OBD_NONNULL(1);
extern int obd_blob_read_plain(const struct obd_blob *b, uint64_t offset,
                               uint8_t *buf, size_t size,
                               struct obd_fault *fault)
    OBD_NONNULL(1, 3, 5) OBD_MUST_USE;

/* The same with a scratch from the pool. */
extern int obd_blob_pread(const struct obd_blob *b, uint64_t offset,
                          uint8_t *buf, size_t size, struct obd_fault *fault)
    OBD_NONNULL(1, 5) OBD_MUST_USE;

/* As obd_window_find, of the stream; NULL also when it is not stored so, or is
 * not all here.
 */
extern const uint8_t *obd_blob_window(const struct obd_blob *b,
                                      uint64_t offset, uint64_t *size)
    OBD_NONNULL(1, 3) OBD_MUST_USE;

/* Read, verify and inflate count blocks or spans from first and drop the result.  On
 * failure fault->block says which block, fault->at where it is stored.
 */
extern int obd_blob_check(const struct obd_blob *b, uint64_t first,
                          uint64_t count, struct obd_fault *fault)
    OBD_NONNULL(1, 4) OBD_MUST_USE;

/* The range of the file that holds size bytes at offset of the stream; the
 * whole request must lie in the stream, size > 0.
 */
extern void obd_blob_stored(const struct obd_blob *b, uint64_t offset,
                            uint64_t size, uint64_t *file_offset,
                            uint64_t *file_size)
    OBD_NONNULL(1, 4, 5);

/* The range of the file that span i is stored in; b has spans. */
extern void obd_blob_span(const struct obd_blob *b, uint64_t i,
                          uint64_t *file_offset, uint64_t *file_size)
    OBD_NONNULL(1, 3, 4);

/* Bytes that its blocks inflate to, a power of two; 0 where there are none. */
extern uint64_t obd_blob_block(const struct obd_blob *b) OBD_NONNULL(1);

/* Whether all of that range is here. */
extern bool obd_blob_present(const struct obd_blob *b, uint64_t file_offset,
                             uint64_t file_size)
    OBD_NONNULL(1);

/* How many bytes from offset share a block, for whoever steps by presence. */
extern uint64_t obd_blob_step(const struct obd_blob *b, uint64_t offset)
    OBD_NONNULL(1);

#endif
