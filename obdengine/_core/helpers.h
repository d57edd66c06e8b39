/* SPDX-License-Identifier: Apache-2.0 */
/* helpers - threads of the process that take pieces of a large request.
 *
 * There is one less of them than processors, and at most OBD_HELPERS_MOST; they
 * are made when they are needed first, and wait for the process to end.  They
 * help one request at a time.  A piece is taken by whoever is free, the one who
 * asks included, so nobody waits for a helper that has not begun; where none
 * has time, he does all of it himself.  A child of fork() makes its own.
 */

#ifndef OBD_HELPERS_H
#define OBD_HELPERS_H

#include <stdbool.h>

#include "obd.h"

#define OBD_HELPERS_MOST 3

/* Piece i of what arg is; anything but 0 means that later ones are not needed. */
typedef int obd_share(void *arg, size_t i);

/* Do pieces 0 to n - 1, n under 2^16, in this thread and in those that are
 * idle; each once, begun in order, and all that were begun are done when it
 * returns.  False, and nothing was done, when there are no helpers or they help
 * somebody else.
 */
extern bool obd_helpers_share(obd_share *piece, void *arg, size_t n)
    OBD_NONNULL(1) OBD_MUST_USE;

/* So many helpers at most from now on; those that are there end, and new ones
 * are made when they are needed.  For tests, when nobody shares anything.
 */
extern void obd_helpers_limit(unsigned most);

#endif
