/* SPDX-License-Identifier: Apache-2.0 */
/* manager - how libext2fs reads and writes: a cache as its io_manager. */

#ifndef OBD_MANAGER_H
#define OBD_MANAGER_H

#include "cache.h"

extern struct struct_io_manager obd_ext4_manager;

/* libext2fs opens by name only: say which cache this thread's next open means.
 */
extern void obd_ext4_next_cache(struct obd_cache *c);

#endif
