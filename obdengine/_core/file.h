/* SPDX-License-Identifier: Apache-2.0 */
/* file - reading from a descriptor, completely or not at all. */

#ifndef OBD_FILE_H
#define OBD_FILE_H

#include <stdbool.h>

#include "obd.h"

/* Fill buf with the size bytes at offset of fd.  OBD_IO, OBD_SHORT: fault->at
 * is where in the file.
 */
extern int obd_file_read(int fd, uint64_t offset, uint8_t *buf, size_t size,
                         struct obd_fault *fault)
    OBD_NONNULL(5) OBD_MUST_USE;

/* Whether reads of this thread may wait for a disk; else they are OBD_IO with
 * EAGAIN in fault->got when they would, where the kernel can tell.
 */
extern void obd_file_wait(bool may);

#endif
