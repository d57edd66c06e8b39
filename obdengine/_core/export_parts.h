/* SPDX-License-Identifier: Apache-2.0 */
/* export_parts - what the export is made of, for the files that make it up. */

#ifndef OBD_EXPORT_PARTS_H
#define OBD_EXPORT_PARTS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "export.h"
#include "wire.h"

/* Requests as they come, and replies as they go, in as few calls as can be. */
#define OBD_IN_SIZE ((size_t)256 << 10)
#define OBD_OUT_SIZE ((size_t)320 << 10)

/* More than this is not done by who reads requests. */
#define OBD_QUICK ((uint32_t)64 << 10)

/* Room for the header before what a read brings. */
#define OBD_HEAD 64

/* Replies that wait to be sent; one thread's at a time. */
struct obd_outbox {
    uint8_t *buf;
    size_t capacity;
    size_t size;
};

struct obd_export {
    struct obd_export_setup setup;
    _Atomic bool over;
    _Atomic unsigned waiting;   /* threads that would read */

    pthread_mutex_t reading;    /* of who reads requests: */
    uint64_t patience;          /* ns to look before sleeping */
    size_t in_start;
    size_t in_end;
    uint8_t *in;
    struct obd_outbox out;

    pthread_mutex_t sending;    /* one reply after the other */

    pthread_mutex_t lock;       /* of room */
    pthread_cond_t room_made;
    uint32_t room;              /* bytes that calls may still take */
};

/* Send all of buf; an error ends the connection. */
extern void obd_export_send(struct obd_export *x, const uint8_t *buf,
                            size_t size)
    OBD_NONNULL(1, 2);

/* The same, by who holds `sending`. */
extern void obd_export_send_held(struct obd_export *x, const uint8_t *buf,
                                 size_t size)
    OBD_NONNULL(1, 2);

extern void obd_export_break_off(struct obd_export *x) OBD_NONNULL(1);

/* Room for at most size bytes more behind those that wait, which may send
 * them; the caller adds what it used to box->size.
 */
extern uint8_t *obd_outbox_room(struct obd_export *x, struct obd_outbox *box,
                                size_t size)
    OBD_NONNULL(1, 2);
extern void obd_outbox_send(struct obd_export *x, struct obd_outbox *box)
    OBD_NONNULL(1, 2);

/* Whether the client takes a read's reply in pieces. */
extern bool obd_read_splits(const struct obd_export *x,
                            const struct obd_call *call)
    OBD_NONNULL(1, 2);

/* Answer a read piece by piece, through box, at most so many bytes of data at
 * a time that are copied.  False when something must be waited for, or
 * fails: then the rest, which is what *call says now, is still to be
 * answered.
 */
extern bool obd_read_in_pieces(struct obd_export *x, struct obd_call *call,
                               struct obd_outbox *box, size_t most)
    OBD_NONNULL(1, 2, 3) OBD_MUST_USE;

/* What is wrong with a request by itself: one of NBD's errors, or 0. */
extern uint32_t obd_request_error(const struct obd_export *x,
                                  const struct obd_call *call)
    OBD_NONNULL(1, 2) OBD_MUST_USE;

/* Make replies at `at`, which has room; they return how long it is. */
extern size_t obd_reply_simple(uint8_t *at, const struct obd_call *call,
                               uint32_t error)
    OBD_NONNULL(1, 2);
extern size_t obd_reply_error(const struct obd_export *x, uint8_t *at,
                              const struct obd_call *call, uint32_t error,
                              const char *message)
    OBD_NONNULL(1, 2, 3) OBD_MUST_USE;

/* The header of a read, so long that it ends where the data begins. */
extern size_t obd_reply_read_size(const struct obd_export *x) OBD_NONNULL(1);
extern void obd_reply_read(const struct obd_export *x, uint8_t *at,
                           const struct obd_call *call)
    OBD_NONNULL(1, 2, 3);

/* The chunks that a read may be answered by: data, before which this goes,
 * zeros, and the end.
 */
#define OBD_DATA_HEAD ((size_t)NBD_CHUNK_SIZE + 8)
#define OBD_HOLE_SIZE ((size_t)NBD_CHUNK_SIZE + 12)
extern void obd_reply_data(uint8_t *at, const struct obd_call *call,
                           size_t size, bool is_last)
    OBD_NONNULL(1, 2);
extern size_t obd_reply_hole(uint8_t *at, const struct obd_call *call,
                             size_t size, bool is_last)
    OBD_NONNULL(1, 2);
extern void obd_reply_end(uint8_t *at, const struct obd_call *call)
    OBD_NONNULL(1, 2);

/* The most that a reply without data takes. */
#define OBD_REPLY_MAX ((size_t)(NBD_CHUNK_SIZE + 6 + 1024))

/* Extents of one block status, and the bytes that this takes at most. */
#define OBD_STATUS_EXTENTS 2048
#define OBD_STATUS_MAX                                                  \
    ((size_t)2 * (NBD_CHUNK_SIZE + 4 + OBD_STATUS_EXTENTS * 8))

/* Answer a block status at `at`; 0: not all could be had. */
extern size_t obd_reply_status(const struct obd_export *x, uint8_t *at,
                               const struct obd_call *call)
    OBD_NONNULL(1, 2, 3) OBD_MUST_USE;

/* Do what changes the disk, or none of its bytes, by the port. */
extern int obd_call_change(const struct obd_export *x,
                           const struct obd_call *call, const uint8_t *data)
    OBD_NONNULL(1, 2) OBD_MUST_USE;

#endif
