/* SPDX-License-Identifier: Apache-2.0 */
/* window - a file's pages as memory that only the kernel looks at. */

#ifndef OBD_WINDOW_H
#define OBD_WINDOW_H

#include <stdatomic.h>

#include "obd.h"

/* Zeroed before first use. */
struct obd_window {
    _Atomic(uint8_t *) file;    /* from its beginning, once it was asked for */
};

/* Where the bytes at offset `at` of fd are in memory: *size of them, or as
 * many as are in the page cache from there on; NULL when none is.  file_size:
 * as much as is ever asked for, always the same.
 *
 * To be given to system calls only.  Where the file was cut meanwhile these
 * fail with EFAULT; everybody else gets SIGBUS.
 */
extern const uint8_t *obd_window_find(struct obd_window *w, int fd,
                                      uint64_t file_size, uint64_t at,
                                      uint64_t *size)
    OBD_NONNULL(1, 5) OBD_MUST_USE;

/* When nobody looks any more. */
extern void obd_window_end(struct obd_window *w, uint64_t file_size)
    OBD_NONNULL(1);

#endif
