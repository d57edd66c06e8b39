/* SPDX-License-Identifier: Apache-2.0 */
/* cache - pages of a disk, kept because metadata is read again and again.
 *
 * A page that is written is held back, and dropped without a write where its
 * content is what the disk has.  Pages go out in the order of the disk, in
 * long runs.  It is for one thread.
 */

#ifndef OBD_CACHE_H
#define OBD_CACHE_H

#include "ext4.h"

#define OBD_PAGE_SHIFT 12
#define OBD_PAGE ((size_t)1 << OBD_PAGE_SHIFT)

/* A cache of at most size bytes; NULL without memory. */
extern struct obd_cache *obd_cache_new(struct obd_disk *disk, size_t size);
extern void obd_cache_free(struct obd_cache *c);

/* Any offset and size; errno, ENOSPC and EIO being the disk's. */
extern int obd_cache_read(struct obd_cache *c, uint64_t offset, void *buf,
                          size_t size);
extern int obd_cache_write(struct obd_cache *c, uint64_t offset,
                           const void *buf, size_t size);
extern int obd_cache_flush(struct obd_cache *c);

/* Write past the cache, what is whole pages; the rest through it. */
extern int obd_cache_write_through(struct obd_cache *c, uint64_t offset,
                                   const uint8_t *buf, size_t size);

/* Forget what waits for the whole pages of a range, and let the disk do so. */
extern int obd_cache_discard(struct obd_cache *c, uint64_t offset,
                             uint64_t size);

#endif
