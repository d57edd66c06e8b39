/* SPDX-License-Identifier: Apache-2.0 */
/* scan - see scan.h. */

#include "scan.h"

#include <string.h>

/* A buffer is zero when its first byte is and each byte equals the one
 * before it; memcmp does that at the speed of memory.
 */
static uint8_t
is_zero(const uint8_t *p, size_t n)
{
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

void
obd_scan_zero(const uint8_t *p, size_t n, size_t granule, uint8_t *flags)
{
    for (size_t i = 0; n > 0; i++) {
        size_t part = n < granule ? n : granule;

        flags[i] = is_zero(p, part);
        p += part;
        n -= part;
    }
}

void
obd_scan_same(const uint8_t *a, const uint8_t *b, size_t n, size_t granule,
              uint8_t *flags)
{
    for (size_t i = 0; n > 0; i++) {
        size_t part = n < granule ? n : granule;

        flags[i] = memcmp(a, b, part) == 0;
        a += part;
        b += part;
        n -= part;
    }
}
