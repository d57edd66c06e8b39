/* SPDX-License-Identifier: Apache-2.0 */
/* merge - fold the indexes of a stack into one. */

#ifndef OBD_MERGE_H
#define OBD_MERGE_H

#include "obd.h"

#define OBD_MAX_STACK 256

/* Fold k layers, layers[0] at the bottom, layers[i] of counts[i] segments in
 * order and apart, into one array of *n segments in order and apart.  Where
 * layers overlap the one with the higher number wins; its number becomes the
 * tag.  Zeroed segments are kept.  The caller frees *out with free().
 *
 * O(N log k) for N segments in all, 64 N bytes of memory on the way; the
 * result has at most 2 N segments.
 */
extern int obd_merge(const struct obd_segment *const *layers,
                     const size_t *counts, size_t k,
                     struct obd_segment **out, size_t *n)
    OBD_NONNULL(4, 5) OBD_MUST_USE;

#endif
