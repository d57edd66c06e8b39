/* SPDX-License-Identifier: Apache-2.0 */
/* export - one NBD connection after its negotiation, served from a port.
 *
 * The caller has the socket, which must block, and the threads: each calls
 * obd_export_serve and stays in it.  One of them reads requests and answers
 * those that are quick; when it meets one that may take long, another goes on
 * reading, so that nothing waits behind it.  What the port cannot do comes
 * back to the caller, who answers it.
 *
 * A client can be as slow, wrong or gone as it likes: the connection ends, or
 * waits until the caller shuts the socket down, and nobody else notices.
 */

#ifndef OBD_EXPORT_H
#define OBD_EXPORT_H

#include "obd.h"
#include "port.h"

struct obd_export;

struct obd_export_setup {
    struct obd_port *port;      /* is held */
    uint64_t size;              /* of the disk, bytes */
    uint32_t allocation_id;     /* of base:allocation, if has_allocation */
    uint32_t layer_id;          /* of obd:layer, if has_layer */
    int fd;
    int writable;
    int structured;             /* structured replies were agreed on */
    int has_allocation;
    int has_layer;
};

/* The largest request for data, and what all that are on the way may take. */
#define OBD_REQUEST_MAX (UINT32_C(32) << 20)
#define OBD_REQUESTS_ROOM (UINT32_C(64) << 20)

/* obd:layer: the number of the layer that a byte is from, 1 at the bottom, 0
 * where none has it; and whether the byte is not on this machine.
 */
#define OBD_STATE_LAYER_MASK UINT32_C(0xffff)
#define OBD_STATE_ABSENT (UINT32_C(1) << 31)

/* A request that is on its way; one for each thread.  Zeroed before first
 * use.  The caller reads the first six.
 */
struct obd_call {
    uint64_t cookie;
    uint64_t offset;
    uint8_t *data;              /* what a write brings */
    uint32_t size;
    uint16_t type;              /* enum nbd_command */
    uint16_t flags;
    int is_waiting;             /* it was met, and not begun */
    int is_written;             /* only the flush of FUA is left of it */
    int is_broken;              /* what was sent of a read is not the disk */
    uint32_t room;              /* taken of the connection's */
    uint8_t *buf;
    size_t capacity;
};

enum obd_export_event {
    OBD_EXPORT_OVER = 0,        /* the connection ended; no more calls */
    OBD_EXPORT_CALL,            /* the call is the caller's to answer */
    OBD_EXPORT_THREAD           /* a thread is missing: start one, go on */
};

/* NULL without memory. */
extern struct obd_export *obd_export_new(const struct obd_export_setup *setup)
    OBD_NONNULL(1) OBD_MUST_USE;

/* When no thread is inside. */
extern void obd_export_free(struct obd_export *x);

/* Serve until one of these happens.  may_grow: OBD_EXPORT_THREAD is of use. */
extern enum obd_export_event obd_export_serve(struct obd_export *x,
                                              struct obd_call *call,
                                              int may_grow)
    OBD_NONNULL(1, 2) OBD_MUST_USE;

/* Answer what OBD_EXPORT_CALL gave.  error is one of NBD's, 0 for none; data
 * is for a read that worked; message goes to clients that take one.
 */
extern void obd_export_answer(struct obd_export *x, struct obd_call *call,
                              uint32_t error, const uint8_t *data,
                              const char *message)
    OBD_NONNULL(1, 2);

/* Free what a call holds, when its thread ends. */
extern void obd_call_clear(struct obd_call *call) OBD_NONNULL(1);

#endif
