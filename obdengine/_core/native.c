/* SPDX-License-Identifier: Apache-2.0 */
/* native - see native.h. */

#include "native.h"

void
obd_native_fill(struct obd_native *out, struct obd_port *p)
{
    *out = (struct obd_native){
        .version = OBD_NATIVE_VERSION,
        .port = p,
        .hold = obd_port_hold,
        .drop = obd_port_drop,
        .read = obd_port_read,
        .write = obd_port_write,
        .zero = obd_port_zero,
        .discard = obd_port_discard,
        .flush = obd_port_flush,
        .extents = obd_port_extents,
        .present = obd_port_present,
    };
}
