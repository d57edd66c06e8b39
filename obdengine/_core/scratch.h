/* SPDX-License-Identifier: Apache-2.0 */
/* scratch - the memory that one request needs, lent from a pool.
 *
 * The pool belongs to the process, so an idle device costs nothing here.  As
 * many scratches exist as requests ever ran at once (at most OBD_SCRATCHES
 * are kept); after that a request allocates nothing.
 */

#ifndef OBD_SCRATCH_H
#define OBD_SCRATCH_H

#include "codec.h"
#include "obd.h"

#define OBD_SCRATCHES 64

/* Stored bytes that are read at once.  256 KiB: four times the largest block,
 * and it stays in a second-level cache together with what it inflates to.
 */
#define OBD_STORED_CAP ((size_t)256 << 10)

struct obd_scratch {
    struct obd_codec codec;
    uint8_t *block;             /* OBD_BLOCK_MAX bytes, from malloc */
    uint8_t stored[OBD_STORED_CAP];
};

/* NULL when there is no memory. */
extern struct obd_scratch *obd_scratch_take(void) OBD_MUST_USE;

extern void obd_scratch_give(struct obd_scratch *s) OBD_NONNULL(1);

/* Free what the pool holds; for leak checks, when no request runs. */
extern void obd_scratch_drain(void);

#endif
