/* SPDX-License-Identifier: Apache-2.0 */
/* crc32c - the raw reflected CRC-32C that ZFile and traces use.
 *
 * "Raw" means that nothing is inverted, at the start or at the end: the
 * function is linear, and obd_crc32c(obd_crc32c(s, a), b) is the checksum
 * of a followed by b.
 */

#ifndef OBD_CRC32C_H
#define OBD_CRC32C_H

#include "obd.h"

enum obd_crc32c_kernel {
    OBD_CRC32C_PORTABLE = 0,    /* eight bytes at a time, by tables */
    OBD_CRC32C_SSE42            /* crc32 instruction, three streams, pclmul */
};

/* Any n, any alignment.  Chooses the fastest kernel on first use. */
extern uint32_t obd_crc32c(uint32_t seed, const void *p, size_t n);

/* The same by a given kernel; OBD_NO_KERNEL where it cannot run. */
extern int obd_crc32c_with(int kernel, uint32_t seed, const void *p,
                           size_t n, uint32_t *crc)
    OBD_NONNULL(5) OBD_MUST_USE;

#endif
