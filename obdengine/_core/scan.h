/* SPDX-License-Identifier: Apache-2.0 */
/* scan - which parts of a buffer are zero, or equal to another buffer. */

#ifndef OBD_SCAN_H
#define OBD_SCAN_H

#include "obd.h"

/* flags[i] = 1 when granule i of p[n] is all zeros, else 0.  The last
 * granule may be short.  flags has room for n / granule rounded up.
 */
extern void obd_scan_zero(const uint8_t *p, size_t n, size_t granule,
                          uint8_t *flags)
    OBD_NONNULL(1, 4);

/* flags[i] = 1 when granule i of a[n] equals that of b[n]. */
extern void obd_scan_same(const uint8_t *a, const uint8_t *b, size_t n,
                          size_t granule, uint8_t *flags)
    OBD_NONNULL(1, 2, 5);

#endif
