/* SPDX-License-Identifier: Apache-2.0 */
/* chunks - inflated spans that are kept for the next reader, up to a size.
 *
 * The cache belongs to the process: however many disks are open, it takes no
 * more than its budget, and besides one chunk for each read that runs.  Who
 * needs a chunk that another is inflating waits for it.
 */

#ifndef OBD_CHUNKS_H
#define OBD_CHUNKS_H

#include <stdbool.h>

#include "obd.h"

#define OBD_CHUNKS_BUDGET ((size_t)64 << 20)

struct obd_chunk {
    uint64_t owner;             /* id of the blob */
    uint64_t number;
    uint64_t used;              /* when, as a count of uses */
    uint8_t *data;
    size_t size;
    size_t capacity;
    unsigned users;
    bool ready;
};

/* The chunk if it is there, held for the caller; else NULL. */
extern struct obd_chunk *obd_chunk_find(uint64_t owner, uint64_t number)
    OBD_MUST_USE;

/* Hold the chunk for the caller.  *fill: it is his to fill, then to settle;
 * else somebody has filled it meanwhile.  NULL without memory.
 */
extern struct obd_chunk *obd_chunk_claim(uint64_t owner, uint64_t number,
                                         size_t size, bool *fill)
    OBD_NONNULL(4) OBD_MUST_USE;

/* It is filled, or (good false) cannot be and is given back. */
extern void obd_chunk_settle(struct obd_chunk *c, bool good) OBD_NONNULL(1);

/* The caller has no more need of it. */
extern void obd_chunk_give(struct obd_chunk *c) OBD_NONNULL(1);

/* Nobody will ask for the chunks of owner again, and nobody holds one. */
extern void obd_chunks_forget(uint64_t owner);

/* From now on keep at most budget bytes. */
extern void obd_chunks_limit(size_t budget);

/* Bytes that are kept now; budget gets what there may be. */
extern size_t obd_chunks_memory(size_t *budget) OBD_NONNULL(1);

#endif
