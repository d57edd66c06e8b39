/* SPDX-License-Identifier: Apache-2.0 */
/* spans - see spans.h; the table.  What inflates them is gunzip.c. */

#include "spans.h"

#include <stdlib.h>

#include "bytes.h"

struct obd_spans *
obd_spans_new(int kind, int packed, int index_fd, uint64_t windows_end,
              uint64_t size, uint64_t file_size)
{
    struct obd_spans *s = calloc(1, sizeof *s);

    if (s == NULL)
        return NULL;
    s->kind = kind;
    s->packed = packed != 0;
    s->index_fd = index_fd;
    s->windows_end = windows_end;
    s->size = size;
    s->file_size = file_size;
    return s;
}

void
obd_spans_free(struct obd_spans *s)
{
    if (s == NULL)
        return;
    free(s->span);
    free(s);
}

size_t
obd_spans_memory(const struct obd_spans *s)
{
    return sizeof *s + s->capacity * sizeof *s->span;
}

uint64_t
obd_spans_count(const struct obd_spans *s)
{
    return s->n;
}

/* Room for one more than there are. */
static int
grow(struct obd_spans *s)
{
    if (s->n < s->capacity)
        return OBD_OK;
    uint64_t more = s->capacity ? s->capacity * 2 : 64;
    struct obd_span *span = realloc(s->span, more * sizeof *span);

    if (span == NULL)
        return OBD_NOMEM;
    s->span = span;
    s->capacity = more;
    return OBD_OK;
}

static int
refuse(struct obd_fault *fault, int status, uint64_t got, uint64_t want)
{
    fault->got = got;
    fault->want = want;
    return status;
}

static int
check_window(const struct obd_spans *s, const struct obd_span *p,
             struct obd_fault *fault)
{
    uint64_t end, most = s->packed ? OBD_WINDOW_STORED_MAX : OBD_WINDOW_SIZE;

    if (p->bits == OBD_POINT_MEMBER || s->kind == OBD_SPANS_ZSTD)
        return p->window_size == 0
               ? OBD_OK : refuse(fault, OBD_POINT_WINDOW, p->window_size, 0);
    if (p->window_size > most || p->window_size == 0
        || (!s->packed && p->window_size != most))
        return refuse(fault, OBD_POINT_WINDOW, p->window_size, most);
    if (!obd_add(p->window, p->window_size, &end) || end > s->windows_end)
        return refuse(fault, OBD_POINT_WINDOW, p->window, s->windows_end);
    return OBD_OK;
}

static int
check_bits(const struct obd_spans *s, const struct obd_span *p,
           struct obd_fault *fault)
{
    bool member = p->bits == OBD_POINT_MEMBER;
    bool right = s->kind == OBD_SPANS_GZIP ? p->bits < 8
                 : s->kind == OBD_SPANS_ZSTD ? member
                 : p->bits < 8 || member;

    if (!right || (p->bits != 0 && !member && p->in == 0))
        return refuse(fault, OBD_POINT_BITS, p->bits, 7);
    return OBD_OK;
}

/* Whether a span may go from last to p. */
static int
check_span(const struct obd_span *last, const struct obd_span *p,
           struct obd_fault *fault)
{
    if (p->out <= last->out)
        return refuse(fault, OBD_POINT_ORDER, p->out, last->out);
    if (p->in <= last->in)
        return refuse(fault, OBD_POINT_ORDER, p->in, last->in);
    if (p->out - last->out > OBD_SPAN_MAX)
        return refuse(fault, OBD_POINT_FAR, p->out - last->out, OBD_SPAN_MAX);
    if (p->in - last->in > OBD_SPAN_STORED_MAX)
        return refuse(fault, OBD_POINT_FAR, p->in - last->in,
                      OBD_SPAN_STORED_MAX);
    return OBD_OK;
}

static int
check_point(const struct obd_spans *s, const struct obd_span *p,
            struct obd_fault *fault)
{
    if (s->n == 0 && p->out != 0)
        return refuse(fault, OBD_POINT_ORDER, p->out, 0);
    int status = s->n == 0 ? OBD_OK
                           : check_span(&s->span[s->n - 1], p, fault);

    if (status == OBD_OK && p->out > s->size)
        status = refuse(fault, OBD_POINT_BEYOND, p->out, s->size);
    if (status == OBD_OK && p->in >= s->file_size)
        status = refuse(fault, OBD_POINT_BEYOND, p->in, s->file_size);
    if (status == OBD_OK)
        status = check_bits(s, p, fault);
    return status == OBD_OK ? check_window(s, p, fault) : status;
}

int
obd_spans_feed(struct obd_spans *s, const uint8_t *src, size_t n,
               struct obd_fault *fault)
{
    for (size_t i = 0; i < n; i++, src += OBD_POINT_SIZE) {
        struct obd_span p = {
            .out = obd_load64(src),
            .in = obd_load64(src + 8),
            .window = obd_load64(src + 16),
            .bits = src[24],
            .window_size = obd_load32(src + 25),
        };
        int status = check_point(s, &p, fault);

        fault->block = s->n;
        if (status == OBD_OK)
            status = grow(s);
        if (status != OBD_OK)
            return status;
        s->span[s->n++] = p;
    }
    return OBD_OK;
}

int
obd_spans_finish(struct obd_spans *s, struct obd_fault *fault)
{
    struct obd_span end = { .out = s->size, .in = s->file_size };
    int status = OBD_OK;

    s->fed = s->n;
    /* A writer may have seen a point where nothing came after it. */
    if (s->n > 0 && s->span[s->n - 1].out == s->size)
        s->n--;

    fault->block = s->n;
    if (s->n == 0)
        return s->size == 0 ? OBD_OK
                            : refuse(fault, OBD_POINT_FAR, s->size, 0);
    /* What follows the last member may be long, and is not read at once. */
    if (end.out - s->span[s->n - 1].out > OBD_SPAN_MAX)
        return refuse(fault, OBD_POINT_FAR,
                      end.out - s->span[s->n - 1].out, OBD_SPAN_MAX);
    status = grow(s);
    if (status == OBD_OK)
        s->span[s->n] = end;
    return status;
}

int
obd_spans_sum(struct obd_spans *s, const uint8_t *src, size_t n)
{
    if (n != s->fed)
        return OBD_BAD_ARGUMENT;
    for (uint64_t i = 0; i < s->n; i++)
        s->span[i].crc = obd_load32(src + 4 * i);
    s->summed = true;
    return OBD_OK;
}

uint64_t
obd_spans_find(const struct obd_spans *s, uint64_t offset)
{
    uint64_t low = 0, high = s->n;

    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;

        if (s->span[middle].out <= offset)
            low = middle;
        else
            high = middle;
    }
    return low;
}

void
obd_spans_stored(const struct obd_spans *s, uint64_t i, uint64_t *offset,
                 uint64_t *end)
{
    const struct obd_span *p = &s->span[i];
    bool split = p->bits != 0 && p->bits != OBD_POINT_MEMBER;

    *offset = p->in - (split ? 1 : 0);
    *end = obd_min(p[1].in, p->in + OBD_SPAN_STORED_MAX);
}
