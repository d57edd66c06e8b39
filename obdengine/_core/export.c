/* SPDX-License-Identifier: Apache-2.0 */
/* export - see export.h.
 *
 * A thread that has `reading` takes requests off the socket, does the quick
 * ones and gathers their replies.  It lets go of `reading`, having sent them,
 * with the first request that may take long, which it then does; whoever waits
 * for `reading` goes on meanwhile.
 */

#include "export.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

#include "export_parts.h"
#include "file.h"

/* Replies that wait are sent when there are so many bytes of them, so that the
 * client has work meanwhile.  16 KiB: with 32 reads of 4 KiB in flight a tenth
 * more a second than at 64 KiB, on one connection or four (fio, 2026-11-22).
 */
#define SEND_AT ((size_t)64 << 10)

/* A buffer that a thread keeps for its next request. */
#define KEPT_BUFFER ((size_t)2 << 20)

/* A client that has its answer mostly asks again soon: a thread that looks for
 * it without sleeping is not woken then, which takes longer than most requests
 * do.  What comes later than this is not looked for until one is sooner.
 */
#define PATIENCE_NS 50000

/* What is inflated before it is sent: it stays in a second-level cache. */
#define PIECE ((size_t)256 << 10)

/* How reading requests went on. */
enum progress {
    DONE,                       /* the request is answered */
    LONG,                       /* it is in *call, and may take long */
    MORE,                       /* the rest of it has not come */
    OVER
};

struct obd_export *
obd_export_new(const struct obd_export_setup *setup)
{
    struct obd_export *x = calloc(1, sizeof *x);

    if (x == NULL)
        return NULL;
    x->in = malloc(OBD_IN_SIZE);
    x->out.buf = malloc(OBD_OUT_SIZE);
    x->out.capacity = OBD_OUT_SIZE;
    if (x->in == NULL || x->out.buf == NULL) {
        free(x->in);
        free(x->out.buf);
        free(x);
        return NULL;
    }
    x->setup = *setup;
    x->room = OBD_REQUESTS_ROOM;
    obd_port_hold(x->setup.port);
    pthread_mutex_init(&x->reading, NULL);
    pthread_mutex_init(&x->sending, NULL);
    pthread_mutex_init(&x->lock, NULL);
    pthread_cond_init(&x->room_made, NULL);
    return x;
}

void
obd_export_free(struct obd_export *x)
{
    if (x == NULL)
        return;
    pthread_mutex_destroy(&x->reading);
    pthread_mutex_destroy(&x->sending);
    pthread_mutex_destroy(&x->lock);
    pthread_cond_destroy(&x->room_made);
    obd_port_drop(x->setup.port);
    free(x->in);
    free(x->out.buf);
    free(x);
}

/* ---- The socket ---- */

/* End the connection, so that whoever is in the socket comes out of it. */
void
obd_export_break_off(struct obd_export *x)
{
    atomic_store(&x->over, true);
    (void)shutdown(x->setup.fd, SHUT_RDWR);
}

void
obd_export_send_held(struct obd_export *x, const uint8_t *buf, size_t size)
{
    while (size > 0) {
        ssize_t r = send(x->setup.fd, buf, size, MSG_NOSIGNAL);

        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0) {
            obd_export_break_off(x);
            break;
        }
        buf += r;
        size -= (size_t)r;
    }
}

void
obd_export_send(struct obd_export *x, const uint8_t *buf, size_t size)
{
    pthread_mutex_lock(&x->sending);
    obd_export_send_held(x, buf, size);
    pthread_mutex_unlock(&x->sending);
}

/* What came, 0 at the end of the connection. */
static size_t
receive(struct obd_export *x, uint8_t *buf, size_t size)
{
    ssize_t r;

    do
        r = recv(x->setup.fd, buf, size, 0);
    while (r < 0 && errno == EINTR);
    return r > 0 ? (size_t)r : 0;
}

static uint64_t
nanoseconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* The same, but look whether it comes at once before going to sleep. */
static size_t
receive_soon(struct obd_export *x, uint8_t *buf, size_t size)
{
    uint64_t began = nanoseconds(), now = began;

    while (x->patience > 0) {
        ssize_t r = recv(x->setup.fd, buf, size, MSG_DONTWAIT);

        if (r >= 0)
            return (size_t)r;
        if (errno != EAGAIN && errno != EINTR)
            return 0;
        now = nanoseconds();
        if (now - began >= x->patience)
            break;
        sched_yield();
    }
    size_t n = receive(x, buf, size);

    x->patience = nanoseconds() - began < PATIENCE_NS ? PATIENCE_NS : 0;
    return n;
}

void
obd_outbox_send(struct obd_export *x, struct obd_outbox *box)
{
    if (box->size > 0)
        obd_export_send(x, box->buf, box->size);
    box->size = 0;
}

uint8_t *
obd_outbox_room(struct obd_export *x, struct obd_outbox *box, size_t size)
{
    if (box->size >= SEND_AT || box->capacity - box->size < size)
        obd_outbox_send(x, box);
    return box->buf + box->size;
}

/* More of what the client says, behind what is less than a quick request:
 * false at the end.
 */
static bool
receive_more(struct obd_export *x)
{
    size_t left = x->in_end - x->in_start;

    obd_outbox_send(x, &x->out);
    if (left == 0) {
        x->in_start = x->in_end = 0;
    } else if (OBD_IN_SIZE - x->in_start < OBD_QUICK + NBD_REQUEST_SIZE) {
        memmove(x->in, x->in + x->in_start, left);
        x->in_start = 0;
        x->in_end = left;
    }
    size_t n = receive_soon(x, x->in + x->in_end, OBD_IN_SIZE - x->in_end);

    x->in_end += n;
    return n > 0;
}

/* ---- Room for what takes long ---- */

static bool
grow_buffer(struct obd_call *call, size_t size)
{
    if (call->capacity >= size)
        return true;
    free(call->buf);
    call->buf = malloc(size);
    call->capacity = call->buf ? size : 0;
    return call->buf != NULL;
}

/* Wait until the call may take as much as its data; replies must not wait. */
static bool
take_room(struct obd_export *x, struct obd_call *call)
{
    pthread_mutex_lock(&x->lock);
    while (x->room < call->size && !atomic_load(&x->over))
        pthread_cond_wait(&x->room_made, &x->lock);
    call->room = x->room < call->size ? x->room : call->size;
    x->room -= call->room;
    pthread_mutex_unlock(&x->lock);
    return grow_buffer(call, OBD_HEAD + (size_t)call->size);
}

static void
finish(struct obd_export *x, struct obd_call *call)
{
    if (call->room > 0) {
        pthread_mutex_lock(&x->lock);
        x->room += call->room;
        pthread_cond_broadcast(&x->room_made);
        pthread_mutex_unlock(&x->lock);
        call->room = 0;
    }
    if (call->capacity > KEPT_BUFFER)
        obd_call_clear(call);
    call->data = NULL;
    call->is_waiting = call->is_written = call->is_broken = 0;
}

void
obd_call_clear(struct obd_call *call)
{
    free(call->buf);
    call->buf = NULL;
    call->capacity = 0;
}

/* ---- Quick requests ---- */

static void
refuse(struct obd_export *x, const struct obd_call *call, uint32_t error)
{
    uint8_t *at = obd_outbox_room(x, &x->out, OBD_REPLY_MAX);

    x->out.size += obd_reply_error(x, at, call, error, NULL);
}

static enum progress
pieces_quickly(struct obd_export *x, struct obd_call *call)
{
    size_t most = call->size <= OBD_QUICK ? call->size : 0;

    obd_file_wait(false);
    bool done = obd_read_in_pieces(x, call, &x->out, most);
    obd_file_wait(true);
    return done ? DONE : LONG;
}

/* A read into the replies that wait, unless something must be waited for. */
static enum progress
read_quickly(struct obd_export *x, struct obd_call *call)
{
    struct obd_fault fault;

    if (obd_read_splits(x, call))
        return pieces_quickly(x, call);
    if (call->size > OBD_QUICK)
        return LONG;
    size_t head = obd_reply_read_size(x);
    uint8_t *at = obd_outbox_room(x, &x->out, head + call->size);

    obd_file_wait(false);
    int status = obd_port_read(x->setup.port, call->offset, at + head,
                               call->size, &fault);
    obd_file_wait(true);
    if (status != OBD_OK)
        return LONG;
    obd_reply_read(x, at, call);
    x->out.size += head + call->size;
    return DONE;
}

/* The payload of a write that takes long: where the thread keeps it. */
static enum progress
take_payload(struct obd_export *x, struct obd_call *call)
{
    size_t have = x->in_end - x->in_start, size = call->size;

    obd_outbox_send(x, &x->out);
    if (!take_room(x, call))
        return OVER;
    call->data = call->buf + OBD_HEAD;
    have = have < size ? have : size;
    memcpy(call->data, x->in + x->in_start, have);
    x->in_start += have;
    while (have < size) {
        size_t n = receive(x, call->data + have, size - have);

        if (n == 0)
            return OVER;
        have += n;
    }
    return LONG;
}

/* A write whose request has come, and maybe its payload. */
static enum progress
write_quickly(struct obd_export *x, struct obd_call *call, uint32_t error)
{
    const uint8_t *data = x->in + x->in_start + NBD_REQUEST_SIZE;

    if (call->size > OBD_QUICK) {
        x->in_start += NBD_REQUEST_SIZE;
        enum progress p = take_payload(x, call);

        if (p == LONG && error) {
            refuse(x, call, error);
            finish(x, call);
            return DONE;
        }
        return p;
    }
    if (x->in_end - x->in_start < NBD_REQUEST_SIZE + call->size)
        return MORE;
    x->in_start += NBD_REQUEST_SIZE;
    if (!error && obd_call_change(x, call, data) != OBD_OK)
        return take_payload(x, call);
    x->in_start += call->size;
    if (error)
        refuse(x, call, error);
    else if (call->flags & NBD_CMD_FLAG_FUA)
        call->is_written = 1;
    else
        x->out.size += obd_reply_simple(obd_outbox_room(x, &x->out, OBD_REPLY_MAX), call, 0);
    return call->is_written ? LONG : DONE;
}

static enum progress
status_quickly(struct obd_export *x, struct obd_call *call)
{
    size_t size = obd_reply_status(x, obd_outbox_room(x, &x->out, OBD_STATUS_MAX), call);

    x->out.size += size;
    return size > 0 ? DONE : LONG;
}

static void
parse(const uint8_t *p, struct obd_call *call)
{
    call->flags = obd_get16(p + 4);
    call->type = obd_get16(p + 6);
    call->cookie = obd_get64(p + 8);
    call->offset = obd_get64(p + 16);
    call->size = obd_get32(p + 24);
    call->data = NULL;
    call->is_written = call->is_broken = 0;
}

/* The next request, as far as it is here. */
static enum progress
next_request(struct obd_export *x, struct obd_call *call)
{
    const uint8_t *p = x->in + x->in_start;

    if (x->in_end - x->in_start < NBD_REQUEST_SIZE)
        return MORE;
    if (obd_get32(p) != NBD_REQUEST_MAGIC)
        return OVER;
    parse(p, call);
    if (call->type == NBD_CMD_DISC)
        return OVER;
    uint32_t error = obd_request_error(x, call);

    if (call->type == NBD_CMD_WRITE)
        return call->size <= OBD_REQUEST_MAX ? write_quickly(x, call, error)
                                             : OVER;
    x->in_start += NBD_REQUEST_SIZE;
    if (error) {
        refuse(x, call, error);
        return DONE;
    }
    if (call->type == NBD_CMD_READ)
        return read_quickly(x, call);
    if (call->type == NBD_CMD_BLOCK_STATUS)
        return status_quickly(x, call);
    return LONG;
}

/* Read requests until one may take long, which is in *call then: false when
 * the connection is over.
 */
static bool
read_requests(struct obd_export *x, struct obd_call *call)
{
    enum progress p = DONE;

    atomic_fetch_add(&x->waiting, 1);
    pthread_mutex_lock(&x->reading);
    atomic_fetch_sub(&x->waiting, 1);
    while (p != LONG && p != OVER && !atomic_load(&x->over)) {
        p = next_request(x, call);
        if (p == MORE && !receive_more(x))
            p = OVER;
    }
    obd_outbox_send(x, &x->out);
    if (p == OVER)
        atomic_store(&x->over, true);
    bool over = atomic_load(&x->over);

    pthread_mutex_unlock(&x->reading);
    if (over)
        finish(x, call);
    return !over;
}

/* ---- What takes long ---- */

static bool
pieces_at_leisure(struct obd_export *x, struct obd_call *call)
{
    if (!grow_buffer(call, OBD_OUT_SIZE))
        return false;
    struct obd_outbox box = { .buf = call->buf, .capacity = OBD_OUT_SIZE };
    bool done = obd_read_in_pieces(x, call, &box, PIECE);

    obd_outbox_send(x, &box);
    return done;
}

static bool
read_at_leisure(struct obd_export *x, struct obd_call *call)
{
    size_t head = obd_reply_read_size(x);
    struct obd_fault fault;

    if (obd_read_splits(x, call))
        return pieces_at_leisure(x, call);
    if (!take_room(x, call)
        || obd_port_read(x->setup.port, call->offset, call->buf + OBD_HEAD,
                         call->size, &fault) != OBD_OK)
        return false;
    obd_reply_read(x, call->buf + OBD_HEAD - head, call);
    obd_export_send(x, call->buf + OBD_HEAD - head, head + call->size);
    return true;
}

static bool
change_at_leisure(struct obd_export *x, struct obd_call *call)
{
    uint8_t reply[NBD_SIMPLE_REPLY_SIZE];
    struct obd_fault fault;

    if (!call->is_written && obd_call_change(x, call, call->data) != OBD_OK)
        return false;
    call->is_written = 1;
    if ((call->flags & NBD_CMD_FLAG_FUA) && x->setup.writable
        && call->type != NBD_CMD_FLUSH
        && obd_port_flush(x->setup.port, &fault) != OBD_OK)
        return false;
    obd_export_send(x, reply, obd_reply_simple(reply, call, 0));
    return true;
}

static bool
do_natively(struct obd_export *x, struct obd_call *call)
{
    if (call->type == NBD_CMD_BLOCK_STATUS || call->is_broken)
        return false;
    return call->type == NBD_CMD_READ ? read_at_leisure(x, call)
                                      : change_at_leisure(x, call);
}

enum obd_export_event
obd_export_serve(struct obd_export *x, struct obd_call *call, int may_grow)
{
    for (;;) {
        if (!call->is_waiting && !read_requests(x, call))
            return OBD_EXPORT_OVER;
        if (may_grow && atomic_load(&x->waiting) == 0 && !call->is_waiting) {
            call->is_waiting = 1;
            return OBD_EXPORT_THREAD;
        }
        call->is_waiting = 0;
        if (!do_natively(x, call))
            return OBD_EXPORT_CALL;
        finish(x, call);
    }
}

void
obd_export_answer(struct obd_export *x, struct obd_call *call, uint32_t error,
                  const uint8_t *data, const char *message)
{
    uint8_t reply[OBD_REPLY_MAX];
    size_t head = obd_reply_read_size(x);

    if (call->is_broken && !error)
        error = NBD_EIO;
    if (error || data == NULL) {
        obd_export_send(x, reply, obd_reply_error(x, reply, call, error,
                                                  message));
    } else if (grow_buffer(call, OBD_HEAD + (size_t)call->size)) {
        memcpy(call->buf + OBD_HEAD, data, call->size);
        obd_reply_read(x, call->buf + OBD_HEAD - head, call);
        obd_export_send(x, call->buf + OBD_HEAD - head, head + call->size);
    } else {
        obd_export_break_off(x);
    }
    finish(x, call);
}
