/* SPDX-License-Identifier: Apache-2.0 */
/* native - a port as other native code in the process may use it.
 *
 * The core is inside Python's module, whose symbols nobody else sees.  What
 * is served is therefore handed over as a pointer to this: functions, and the
 * port that they take.  Python passes it to the filter for nbdkit.
 */

#ifndef OBD_NATIVE_H
#define OBD_NATIVE_H

#include "port.h"

/* Changes when anything below, or a struct that it passes, does. */
#define OBD_NATIVE_VERSION 1

struct obd_native {
    uint32_t version;
    struct obd_port *port;
    void (*hold)(struct obd_port *p);
    void (*drop)(struct obd_port *p);
    int (*read)(struct obd_port *p, uint64_t offset, uint8_t *buf,
                size_t size, struct obd_fault *fault);
    int (*write)(struct obd_port *p, uint64_t offset, const uint8_t *buf,
                 size_t size, struct obd_fault *fault);
    int (*zero)(struct obd_port *p, uint64_t offset, uint64_t size,
                struct obd_fault *fault);
    int (*discard)(struct obd_port *p, uint64_t offset, uint64_t size,
                   struct obd_fault *fault);
    int (*flush)(struct obd_port *p, struct obd_fault *fault);
    int (*extents)(struct obd_port *p, uint64_t offset, uint64_t size,
                   struct obd_extent *out, size_t cap, size_t *n,
                   struct obd_fault *fault);
    int (*present)(struct obd_port *p, uint64_t offset, uint64_t size,
                   struct obd_fault *fault);
};

/* Fill *out for p; it is good for as long as p is held. */
extern void obd_native_fill(struct obd_native *out, struct obd_port *p)
    OBD_NONNULL(1, 2);

#endif
