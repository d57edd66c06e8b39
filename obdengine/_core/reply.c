/* SPDX-License-Identifier: Apache-2.0 */
/* reply - which requests are right, and what replies look like. */

#include "export_parts.h"

/* Flags that each command may have. */
static const uint16_t flags_of[NBD_COMMANDS] = {
    [NBD_CMD_READ] = NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_DF,
    [NBD_CMD_WRITE] = NBD_CMD_FLAG_FUA,
    [NBD_CMD_FLUSH] = NBD_CMD_FLAG_FUA,
    [NBD_CMD_TRIM] = NBD_CMD_FLAG_FUA,
    [NBD_CMD_WRITE_ZEROES] = NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE
                             | NBD_CMD_FLAG_FAST_ZERO,
    [NBD_CMD_BLOCK_STATUS] = NBD_CMD_FLAG_REQ_ONE,
};

static bool
changes(uint16_t type)
{
    return type == NBD_CMD_WRITE || type == NBD_CMD_TRIM
           || type == NBD_CMD_WRITE_ZEROES;
}

uint32_t
obd_request_error(const struct obd_export *x, const struct obd_call *call)
{
    const struct obd_export_setup *s = &x->setup;

    if (call->type >= NBD_COMMANDS || (call->flags & ~flags_of[call->type]))
        return NBD_EINVAL;
    if (call->type == NBD_CMD_FLUSH)
        return call->offset || call->size ? NBD_EINVAL : 0;
    if (changes(call->type) && !s->writable)
        return NBD_EPERM;
    if (call->type == NBD_CMD_BLOCK_STATUS
        && !s->has_allocation && !s->has_layer)
        return NBD_EINVAL;
    if (call->type == NBD_CMD_READ && call->size > OBD_REQUEST_MAX)
        return NBD_EINVAL;
    if (call->size == 0)
        return NBD_EINVAL;
    if (call->offset > s->size || call->size > s->size - call->offset)
        return changes(call->type) ? NBD_ENOSPC : NBD_EINVAL;
    return 0;
}

size_t
obd_reply_simple(uint8_t *at, const struct obd_call *call, uint32_t error)
{
    obd_put32(at, NBD_SIMPLE_REPLY_MAGIC);
    obd_put32(at + 4, error);
    obd_put64(at + 8, call->cookie);
    return NBD_SIMPLE_REPLY_SIZE;
}

static void
put_chunk(uint8_t *at, const struct obd_call *call, int flags,
          enum nbd_chunk type, size_t size)
{
    obd_put32(at, NBD_STRUCTURED_REPLY_MAGIC);
    obd_put16(at + 4, (uint16_t)flags);
    obd_put16(at + 6, (uint16_t)type);
    obd_put64(at + 8, call->cookie);
    obd_put32(at + 16, (uint32_t)size);
}

size_t
obd_reply_error(const struct obd_export *x, uint8_t *at,
                const struct obd_call *call, uint32_t error,
                const char *message)
{
    size_t length = message ? strnlen(message, 1024) : 0;
    bool structured = x->setup.structured
                      && (call->type == NBD_CMD_READ
                          || call->type == NBD_CMD_BLOCK_STATUS);

    if (!structured)
        return obd_reply_simple(at, call, error);
    put_chunk(at, call, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR,
              6 + length);
    obd_put32(at + NBD_CHUNK_SIZE, error);
    obd_put16(at + NBD_CHUNK_SIZE + 4, (uint16_t)length);
    if (length > 0)
        memcpy(at + NBD_CHUNK_SIZE + 6, message, length);
    return NBD_CHUNK_SIZE + 6 + length;
}

size_t
obd_reply_read_size(const struct obd_export *x)
{
    return x->setup.structured ? NBD_CHUNK_SIZE + 8 : NBD_SIMPLE_REPLY_SIZE;
}

void
obd_reply_data(uint8_t *at, const struct obd_call *call, size_t size,
               bool is_last)
{
    put_chunk(at, call, is_last ? NBD_REPLY_FLAG_DONE : 0,
              NBD_REPLY_TYPE_OFFSET_DATA, 8 + size);
    obd_put64(at + NBD_CHUNK_SIZE, call->offset);
}

void
obd_reply_read(const struct obd_export *x, uint8_t *at,
               const struct obd_call *call)
{
    if (!x->setup.structured) {
        obd_reply_simple(at, call, 0);
        return;
    }
    obd_reply_data(at, call, call->size, true);
}

size_t
obd_reply_hole(uint8_t *at, const struct obd_call *call, size_t size,
               bool is_last)
{
    put_chunk(at, call, is_last ? NBD_REPLY_FLAG_DONE : 0,
              NBD_REPLY_TYPE_OFFSET_HOLE, 12);
    obd_put64(at + NBD_CHUNK_SIZE, call->offset);
    obd_put32(at + NBD_CHUNK_SIZE + 8, (uint32_t)size);
    return OBD_HOLE_SIZE;
}

void
obd_reply_end(uint8_t *at, const struct obd_call *call)
{
    put_chunk(at, call, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, 0);
}

/* ---- Block status ---- */

/* Entries of one context while they are gathered. */
struct context {
    uint8_t *at;                /* of its first entry */
    size_t n;
    uint32_t last;              /* status of the entry that ends now */
    uint64_t size;              /* bytes of it */
};

static void
end_entry(struct context *c)
{
    if (c->size == 0)
        return;
    obd_put32(c->at + 8 * c->n, (uint32_t)c->size);
    obd_put32(c->at + 8 * c->n + 4, c->last);
    c->n++;
    c->size = 0;
}

static void
add_extent(struct context *c, uint64_t size, uint32_t status)
{
    if (c->last != status)
        end_entry(c);
    c->last = status;
    c->size += size;
}

static uint32_t
allocation(const struct obd_extent *e)
{
    return e->flags & OBD_EXTENT_ZERO ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0;
}

static uint32_t
layer(const struct obd_extent *e)
{
    uint32_t number = e->layer == OBD_NO_LAYER ? 0 : e->layer + 1;

    return number | (e->flags & OBD_EXTENT_PRESENT ? 0 : OBD_STATE_ABSENT);
}

#define EXTENTS_AT_ONCE 64

/* Gather one context's entries; whether anything was there to gather. */
static bool
gather(const struct obd_export *x, const struct obd_call *call,
       uint32_t (*status_of)(const struct obd_extent *), struct context *c)
{
    size_t most = call->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : OBD_STATUS_EXTENTS;
    uint64_t at = call->offset, end = at + call->size;

    while (at < end && c->n < most) {
        struct obd_extent found[EXTENTS_AT_ONCE];
        struct obd_fault fault;
        size_t n;

        if (obd_port_extents(x->setup.port, at, end - at, found,
                             EXTENTS_AT_ONCE, &n, &fault) != OBD_OK)
            return false;
        for (size_t i = 0; i < n && c->n < most; i++) {
            add_extent(c, found[i].size, status_of(&found[i]));
            at = found[i].offset + found[i].size;
        }
    }
    if (c->n < most)
        end_entry(c);
    return true;
}

/* One context's chunk at `at`; 0 when the port has no answer. */
static size_t
put_context(const struct obd_export *x, uint8_t *at,
            const struct obd_call *call, uint32_t id, bool is_last,
            uint32_t (*status_of)(const struct obd_extent *))
{
    struct context c = { .at = at + NBD_CHUNK_SIZE + 4 };

    if (!gather(x, call, status_of, &c))
        return 0;
    put_chunk(at, call, is_last ? NBD_REPLY_FLAG_DONE : 0,
              NBD_REPLY_TYPE_BLOCK_STATUS, 4 + 8 * c.n);
    obd_put32(at + NBD_CHUNK_SIZE, id);
    return NBD_CHUNK_SIZE + 4 + 8 * c.n;
}

size_t
obd_reply_status(const struct obd_export *x, uint8_t *at,
                 const struct obd_call *call)
{
    const struct obd_export_setup *s = &x->setup;
    size_t size = 0, more = 0;

    if (s->has_allocation) {
        size = put_context(x, at, call, s->allocation_id, !s->has_layer,
                           allocation);
        if (size == 0)
            return 0;
    }
    if (s->has_layer) {
        more = put_context(x, at + size, call, s->layer_id, true, layer);
        if (more == 0)
            return 0;
    }
    return size + more;
}

/* ---- Commands without data in the reply ---- */

int
obd_call_change(const struct obd_export *x, const struct obd_call *call,
                const uint8_t *data)
{
    struct obd_port *p = x->setup.port;
    struct obd_fault fault;

    switch (call->type) {
    case NBD_CMD_WRITE:
        return obd_port_write(p, call->offset, data, call->size, &fault);
    case NBD_CMD_TRIM:
        return obd_port_discard(p, call->offset, call->size, &fault);
    case NBD_CMD_WRITE_ZEROES:
        return obd_port_zero(p, call->offset, call->size, &fault);
    case NBD_CMD_CACHE:
        return obd_port_present(p, call->offset, call->size, &fault);
    case NBD_CMD_FLUSH:
        return x->setup.writable ? obd_port_flush(p, &fault) : OBD_OK;
    default:
        return OBD_BAD_ARGUMENT;
    }
}
