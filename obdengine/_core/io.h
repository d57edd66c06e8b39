/* SPDX-License-Identifier: Apache-2.0 */
/* io - what the writable layer does to its files, in one place, so that tests
 * can record it, refuse it, and cut the power between any two calls.
 *
 * Each returns 0 or an errno.  write is complete or fails; what it wrote
 * before it failed is unspecified.
 */

#ifndef OBD_IO_H
#define OBD_IO_H

#include "obd.h"

struct obd_io {
    void *context;
    int (*write)(void *context, int fd, const void *buf, uint64_t size,
                 uint64_t offset);
    int (*sync)(void *context, int fd);
    int (*truncate)(void *context, int fd, uint64_t size);
    /* Make a range read as zeros and give its room back; may refuse. */
    int (*punch)(void *context, int fd, uint64_t offset, uint64_t size);
};

/* The kernel's own. */
extern const struct obd_io obd_io_kernel;

#endif
