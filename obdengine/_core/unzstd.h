/* SPDX-License-Identifier: Apache-2.0 */
/* unzstd - a zstd stream inflated piece by piece, frame by frame.
 *
 * For whole files that come from a pipe or a network; blocks of a ZFile, which
 * are small and at hand, go through codec.
 */

#ifndef OBD_UNZSTD_H
#define OBD_UNZSTD_H

#include "obd.h"

/* What a frame may ask us to remember; more is refused. */
#define OBD_UNZSTD_WINDOW_LOG 27

struct obd_unzstd;

/* NULL when there is no memory. */
extern struct obd_unzstd *obd_unzstd_new(void) OBD_MUST_USE;
extern void obd_unzstd_free(struct obd_unzstd *u);

/* Inflate from src[n] into dst[cap]: *used of one, *made of the other.
 * *ended: the frame is complete, and the next call begins another one.
 * OBD_BAD_BLOCK: these bytes are no zstd; OBD_TOO_MANY: the frame wants a
 * larger window.  After either the stream is of no more use.
 */
extern int obd_unzstd_run(struct obd_unzstd *u, const uint8_t *src, size_t n,
                          size_t *used, uint8_t *dst, size_t cap,
                          size_t *made, int *ended)
    OBD_NONNULL(1, 4, 5, 7, 8) OBD_MUST_USE;

#endif
