/* SPDX-License-Identifier: Apache-2.0 */
/* port - where requests enter a disk that may be exchanged under them.
 *
 * A port outlives the devices behind it: a snapshot or close() gives it
 * another one, or none.  It is for native code that serves requests beside
 * Python, and for the gate that both pass with writes.  Whoever gets anything
 * but OBD_OK hands the request to Python, which repeats it: there bytes that
 * are absent are fetched, and what is wrong becomes a sentence.
 *
 * Readers count themselves, each thread mostly in a cache line of its own.
 * Everything here may run from any thread at the same time.
 */

#ifndef OBD_PORT_H
#define OBD_PORT_H

#include "device.h"
#include "gather.h"
#include "obd.h"

struct obd_port;

/* Without a device, for one user.  NULL without memory. */
extern struct obd_port *obd_port_new(void) OBD_MUST_USE;

/* One more user, one less; the last one frees it. */
extern void obd_port_hold(struct obd_port *p) OBD_NONNULL(1);
extern void obd_port_drop(struct obd_port *p);

/* Serve from d from now on, which NULL ends.  Returns when no request through
 * this port is in the device of before.  One caller at a time.  Writes are
 * refused unless writable.
 */
extern void obd_port_use(struct obd_port *p, struct obd_device *d,
                         int writable)
    OBD_NONNULL(1);

/* Serve from nothing any more, and drop it. */
extern void obd_port_end(struct obd_port *p);

/* Writes and flushes go through the gate; while it is shut they wait.  Shut
 * waits for those inside, and for whoever has it shut.
 */
extern void obd_port_pass(struct obd_port *p) OBD_NONNULL(1);
extern void obd_port_leave(struct obd_port *p) OBD_NONNULL(1);
extern void obd_port_shut(struct obd_port *p) OBD_NONNULL(1);
extern void obd_port_open(struct obd_port *p) OBD_NONNULL(1);

/* As those of the device; OBD_BAD_ARGUMENT without one. */
extern int obd_port_read(struct obd_port *p, uint64_t offset, uint8_t *buf,
                         size_t size, struct obd_fault *fault)
    OBD_NONNULL(1, 5) OBD_MUST_USE;

/* The same, but windows are good until obd_port_let_go, which must not have to
 * wait for anybody: the device cannot be exchanged before.
 */
extern int obd_port_gather(struct obd_port *p, uint64_t offset, uint64_t size,
                           struct obd_gather *g, struct obd_fault *fault)
    OBD_NONNULL(1, 4, 5) OBD_MUST_USE;
extern void obd_port_let_go(struct obd_gather *g) OBD_NONNULL(1);

extern int obd_port_write(struct obd_port *p, uint64_t offset,
                          const uint8_t *buf, size_t size,
                          struct obd_fault *fault)
    OBD_NONNULL(1, 5) OBD_MUST_USE;
extern int obd_port_zero(struct obd_port *p, uint64_t offset, uint64_t size,
                         struct obd_fault *fault)
    OBD_NONNULL(1, 4) OBD_MUST_USE;
extern int obd_port_discard(struct obd_port *p, uint64_t offset,
                            uint64_t size, struct obd_fault *fault)
    OBD_NONNULL(1, 4) OBD_MUST_USE;
extern int obd_port_extents(struct obd_port *p, uint64_t offset,
                            uint64_t size, struct obd_extent *out,
                            size_t cap, size_t *n, struct obd_fault *fault)
    OBD_NONNULL(1, 4, 6, 7) OBD_MUST_USE;

/* Make durable what was written.  OBD_ABSENT: that is done, and the log is
 * worth writing anew, which is Python's work.
 */
extern int obd_port_flush(struct obd_port *p, struct obd_fault *fault)
    OBD_NONNULL(1, 2) OBD_MUST_USE;

/* OBD_OK when all that a range is made from is on this machine. */
extern int obd_port_present(struct obd_port *p, uint64_t offset,
                            uint64_t size, struct obd_fault *fault)
    OBD_NONNULL(1, 4) OBD_MUST_USE;

#endif
