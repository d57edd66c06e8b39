/* SPDX-License-Identifier: Apache-2.0 */
/* export_read - reads that are answered piece by piece.
 *
 * Zeros are only named.  What is in a file as the client wants it goes from the
 * page cache into the socket, without a copy of ours.  The rest is copied.
 */

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "export_parts.h"

#define WINDOWS 16

/* A reply of one chunk that is less than this is not worth the search. */
#define SPLIT_LEAST ((uint32_t)8 << 10)

bool
obd_read_splits(const struct obd_export *x, const struct obd_call *call)
{
    return x->setup.structured && call->size >= SPLIT_LEAST
           && !(call->flags & NBD_CMD_FLAG_DF);
}

/* A chunk that is being sent: what waited before it, with its head; its data,
 * from files; and the end of the reply, if that is next.
 */
struct parcel {
    struct obd_outbox *box;
    size_t box_sent;
    uint64_t offset;            /* of the data that is left */
    uint64_t left;
    uint8_t end[NBD_CHUNK_SIZE];
    size_t end_left;
};

/* Take off what was sent. */
static void
took(struct parcel *p, size_t sent)
{
    size_t n = p->box->size - p->box_sent;

    n = sent < n ? sent : n;
    p->box_sent += n;
    sent -= n;
    n = sent < p->left ? sent : (size_t)p->left;
    p->offset += n;
    p->left -= n;
    p->end_left -= sent - n;
}

/* Send what goes without waiting of a parcel, whose windows are in g. */
static ssize_t
send_parcel(struct obd_export *x, struct parcel *p, const struct obd_gather *g)
{
    struct iovec v[WINDOWS + 2] = {
        { p->box->buf + p->box_sent, p->box->size - p->box_sent },
    };
    struct msghdr message = { .msg_iov = v, .msg_iovlen = 1 + g->n };

    memcpy(v + 1, g->windows, g->n * sizeof *v);
    if (g->size == p->left)
        v[message.msg_iovlen++]
            = (struct iovec){ p->end + sizeof p->end - p->end_left,
                              p->end_left };
    return sendmsg(x->setup.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static bool
can_write(const struct obd_export *x)
{
    struct pollfd p = { .fd = x->setup.fd, .events = POLLOUT };

    return poll(&p, 1, -1) >= 0 || errno == EINTR;
}

/* Send of a parcel what can be sent from files; g has its windows at first.
 * No visit may wait for the client, so each try has its own.
 */
static void
send_windows(struct obd_export *x, struct parcel *p, struct obd_gather *g)
{
    struct obd_fault fault;

    while (p->left > 0) {
        if (g->visit == NULL
            && (obd_port_gather(x->setup.port, p->offset, p->left, g, &fault)
                != OBD_OK || g->visit == NULL))
            return;
        ssize_t r = send_parcel(x, p, g);
        int error = errno;

        obd_port_let_go(g);
        if (r >= 0)
            took(p, (size_t)r);
        else if (error == EFAULT)
            return;
        else if (error != EINTR && (error != EAGAIN || !can_write(x)))
            obd_export_break_off(x);
        if (atomic_load(&x->over))
            return;
    }
}

/* Send the rest of a parcel, whose data was no longer to be had from files:
 * false when it is not to be had at all, and the client got zeros for it.
 */
static bool
send_copies(struct obd_export *x, struct parcel *p)
{
    struct obd_outbox *box = p->box;
    struct obd_fault fault;
    bool right = true;

    obd_export_send_held(x, box->buf + p->box_sent, box->size - p->box_sent);
    while (p->left > 0 && !atomic_load(&x->over)) {
        size_t n = p->left < box->capacity ? (size_t)p->left : box->capacity;

        if (right && obd_port_read(x->setup.port, p->offset, box->buf, n,
                                   &fault) != OBD_OK)
            right = false;
        if (!right)
            memset(box->buf, 0, n);
        obd_export_send_held(x, box->buf, n);
        p->offset += n;
        p->left -= n;
    }
    if (right)
        obd_export_send_held(x, p->end + sizeof p->end - p->end_left,
                             p->end_left);
    return right;
}

/* Send the chunk that g has windows of, which then are others or none: false
 * when it is broken.
 */
static bool
send_from_files(struct obd_export *x, const struct obd_call *call,
                struct obd_outbox *box, struct obd_gather *g)
{
    struct parcel p = { .box = box, .offset = call->offset, .left = g->size };

    obd_reply_data(box->buf + box->size, call, (size_t)g->size, false);
    box->size += OBD_DATA_HEAD;
    if (g->size == call->size) {
        /* Not in the chunk itself: an error may have to follow it. */
        obd_reply_end(p.end, call);
        p.end_left = sizeof p.end;
    }
    if (pthread_mutex_trylock(&x->sending) != 0) {
        obd_port_let_go(g);
        pthread_mutex_lock(&x->sending);
    }
    send_windows(x, &p, g);
    bool right = send_copies(x, &p);

    pthread_mutex_unlock(&x->sending);
    box->size = 0;
    return right;
}

bool
obd_read_in_pieces(struct obd_export *x, struct obd_call *call,
                   struct obd_outbox *box, size_t most)
{
    while (call->size > 0) {
        struct iovec windows[WINDOWS];
        size_t capacity = most < call->size ? most : call->size;
        uint8_t *at = obd_outbox_room(x, box, OBD_DATA_HEAD + OBD_HOLE_SIZE
                                              + capacity);
        struct obd_gather g = { .windows = windows, .most = WINDOWS,
                                .buf = at + OBD_DATA_HEAD,
                                .capacity = capacity };
        struct obd_fault fault;

        if (obd_port_gather(x->setup.port, call->offset, call->size, &g,
                            &fault) != OBD_OK || g.size == 0)
            return false;
        size_t size = (size_t)g.size;
        bool is_last = size == call->size;

        if (g.kind == OBD_GATHERED_WINDOWS) {
            call->is_broken = !send_from_files(x, call, box, &g);
            if (call->is_broken)
                return false;
        } else if (g.kind == OBD_GATHERED_ZEROS) {
            box->size += obd_reply_hole(at, call, size, is_last);
        } else {
            obd_reply_data(at, call, size, is_last);
            box->size += OBD_DATA_HEAD + size;
        }
        call->offset += size;
        call->size -= (uint32_t)size;
    }
    return true;
}
