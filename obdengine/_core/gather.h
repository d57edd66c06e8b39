/* SPDX-License-Identifier: Apache-2.0 */
/* gather - what a read covers, by how it can be handed on with least copying.
 */

#ifndef OBD_GATHER_H
#define OBD_GATHER_H

#include <sys/uio.h>

#include "device.h"

enum obd_gathered {
    OBD_GATHERED_BYTES,         /* in buf */
    OBD_GATHERED_WINDOWS,       /* in files, as obd_window_find says */
    OBD_GATHERED_ZEROS
};

struct obd_gather {
    struct iovec *windows;      /* given: room for so many, */
    size_t most;
    uint8_t *buf;               /* and for so many bytes; may be none */
    size_t capacity;
    uint64_t size;              /* found: how much of the disk this is, */
    enum obd_gathered kind;
    size_t n;                   /* and how many windows */
    void *visit;                /* the port's */
};

/* Less is not told apart as zeros: a chunk costs as much as its copy. */
#define OBD_ZEROS_LEAST (UINT64_C(16) << 10)

/* Take what comes at offset as far as it is of one kind, at most size bytes.
 * g->size is 0 when that is bytes and there is no room for them.  Fails as
 * obd_device_read; windows are good for as long as the device is.
 */
extern int obd_gather(const struct obd_device *d, uint64_t offset,
                      uint64_t size, struct obd_gather *g,
                      struct obd_fault *fault)
    OBD_NONNULL(1, 4, 5) OBD_MUST_USE;

#endif
