/* SPDX-License-Identifier: Apache-2.0 */
/* presence - see presence.h. */

#include "presence.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "bytes.h"
#include "crc32c.h"
#include "file.h"

#define UNIT ((size_t)1 << OBD_GUARD_SHIFT)

static uint64_t
units_of(const struct obd_presence *p)
{
    return (p->size >> p->shift) + 1;
}

static size_t
words_of(const struct obd_presence *p)
{
    return (size_t)(units_of(p) / 64 + 1);
}

static size_t
steps_of(const struct obd_presence *p)
{
    return (size_t)(p->size >> OBD_USE_SHIFT) + 1;
}

int
obd_presence_begin(struct obd_presence *p, uint64_t size, unsigned shift)
{
    if (shift > 30 || p->here != NULL)
        return OBD_BAD_ARGUMENT;
    p->size = size;
    p->shift = shift;
    p->here = calloc(words_of(p), sizeof *p->here);
    return p->here == NULL ? OBD_NOMEM : OBD_OK;
}

int
obd_presence_guard(struct obd_presence *p, uint32_t seed, int spare)
{
    if (p->here == NULL || p->sums != NULL || p->shift != OBD_GUARD_SHIFT)
        return OBD_BAD_ARGUMENT;
    p->seed = seed;
    p->spare = spare;
    p->lent = calloc(words_of(p), sizeof *p->lent);
    p->sums = calloc((size_t)units_of(p), sizeof *p->sums);
    p->used = calloc(steps_of(p), sizeof *p->used);
    if (p->lent != NULL && p->sums != NULL && p->used != NULL)
        return OBD_OK;
    free((void *)p->sums);
    p->sums = NULL;
    return OBD_NOMEM;
}

void
obd_presence_end(struct obd_presence *p)
{
    free((void *)p->here);
    free((void *)p->lent);
    free((void *)p->sums);
    free((void *)p->used);
}

size_t
obd_presence_memory(const struct obd_presence *p)
{
    if (p->here == NULL)
        return 0;
    if (p->sums == NULL)
        return words_of(p) * sizeof *p->here;
    return 2 * words_of(p) * sizeof *p->here + steps_of(p)
           + (size_t)units_of(p) * sizeof *p->sums;
}

static bool
bit(const _Atomic uint64_t *bits, uint64_t u)
{
    return atomic_load_explicit(&bits[u / 64], memory_order_acquire)
           >> (u % 64) & 1;
}

static void
set_bit(_Atomic uint64_t *bits, uint64_t u)
{
    atomic_fetch_or_explicit(&bits[u / 64], UINT64_C(1) << (u % 64),
                             memory_order_release);
}

static void
clear_bit(_Atomic uint64_t *bits, uint64_t u)
{
    atomic_fetch_and_explicit(&bits[u / 64], ~(UINT64_C(1) << (u % 64)),
                              memory_order_release);
}

void
obd_presence_mark(struct obd_presence *p, uint64_t offset, uint64_t size)
{
    uint64_t end, unit = UINT64_C(1) << p->shift;

    if (p->here == NULL || p->sums != NULL || !obd_add(offset, size, &end))
        return;
    /* The last unit ends where the file does. */
    end = end >= p->size ? units_of(p) << p->shift : end;
    uint64_t first = obd_min(offset, p->size) + unit - 1;

    for (uint64_t u = first >> p->shift; u < end >> p->shift; u++)
        set_bit(p->here, u);
}

void
obd_presence_adopt(struct obd_presence *p, uint64_t first,
                   const uint32_t *sums, size_t n, int is_lent)
{
    if (p->sums == NULL)
        return;
    /* A reader that sees the old sum with the new bytes, or the other way
     * round, finds that they differ and asks for the unit again.
     */
    for (size_t i = 0; i < n && first + i < units_of(p); i++) {
        if (sums[i] == 0)
            continue;
        atomic_store_explicit(&p->sums[first + i], sums[i],
                              memory_order_relaxed);
        (is_lent ? set_bit : clear_bit)(p->lent, first + i);
        set_bit(p->here, first + i);
    }
}

void
obd_presence_forget(struct obd_presence *p, uint64_t offset, uint64_t size)
{
    uint64_t end;

    if (p->here == NULL || size == 0 || !obd_add(offset, size, &end))
        return;
    end = obd_min(end, p->size);
    for (uint64_t u = offset >> p->shift; u << p->shift < end; u++)
        clear_bit(p->here, u);
}

bool
obd_presence_here(const struct obd_presence *p, uint64_t offset,
                  uint64_t size)
{
    if (p->here == NULL || size == 0)
        return true;
    uint64_t last = (offset + size - 1) >> p->shift;

    for (uint64_t u = offset >> p->shift; u <= last; u++)
        if (!bit(p->here, u))
            return false;
    return true;
}

static uint32_t
sum_of(uint32_t seed, uint64_t unit, const uint8_t *data, size_t size)
{
    uint8_t raw[8];

    obd_store64(raw, unit);
    uint32_t sum = obd_crc32c(obd_crc32c(seed, raw, sizeof raw), data, size);

    /* 0 says that there is no sum. */
    return sum ? sum : 1;
}

void
obd_presence_sums(uint32_t seed, uint64_t first, const uint8_t *data,
                  size_t size, uint32_t *sums)
{
    for (size_t done = 0; done < size; done += UNIT)
        *sums++ = sum_of(seed, first++, data + done,
                         (size_t)obd_min(UNIT, size - done));
}

/* Bytes of a unit: the last one of the file is short. */
static size_t
length_of(const struct obd_presence *p, uint64_t unit)
{
    return (size_t)obd_min(UNIT, p->size - (unit << OBD_GUARD_SHIFT));
}

/* Whether a unit is what it was; it is forgotten if not. */
static bool
sound(struct obd_presence *p, uint64_t unit, const uint8_t *data)
{
    uint32_t sum = atomic_load_explicit(&p->sums[unit], memory_order_relaxed);

    if (OBD_LIKELY(sum_of(p->seed, unit, data, length_of(p, unit)) == sum))
        return true;
    clear_bit(p->here, unit);
    return false;
}

/* A read of whole units: an edge that is wanted in part goes by the side. */
struct span {
    uint64_t first;             /* unit */
    size_t skip;                /* bytes of it that are not wanted */
    size_t head;                /* bytes wanted of it, if not all */
    size_t body;                /* bytes of whole units */
    size_t tail;                /* bytes wanted of the last, if not all */
    uint8_t before[UNIT];
    uint8_t behind[UNIT];
};

static void
cut(struct span *s, uint64_t offset, size_t size)
{
    s->first = offset >> OBD_GUARD_SHIFT;
    s->skip = (size_t)(offset & (UNIT - 1));
    s->head = s->skip ? (size_t)obd_min(UNIT - s->skip, size) : 0;
    s->body = (size - s->head) & ~(UNIT - 1);
    s->tail = size - s->head - s->body;
}

/* One call for all of it.  False when the file does not give as much. */
static bool
load(const struct obd_presence *p, int fd, struct span *s, uint8_t *buf)
{
    struct iovec v[3];
    int n = 0;
    uint64_t unit = s->first;
    size_t want = 0;

    if (s->head) {
        v[n++] = (struct iovec){ s->before, length_of(p, unit) };
        unit++;
    }
    if (s->body)
        v[n++] = (struct iovec){ buf + s->head, s->body };
    unit += s->body >> OBD_GUARD_SHIFT;
    if (s->tail)
        v[n++] = (struct iovec){ s->behind, length_of(p, unit) };
    for (int i = 0; i < n; i++)
        want += v[i].iov_len;
    ssize_t got;

    do
        got = preadv(fd, v, n, (off_t)(s->first << OBD_GUARD_SHIFT));
    while (got < 0 && errno == EINTR);
    return got >= 0 && (size_t)got == want;
}

/* Read from one of the two files; false when a unit is not what it was. */
static bool
read_checked(struct obd_presence *p, int fd, uint64_t offset, uint8_t *buf,
             size_t size)
{
    struct span s;

    cut(&s, offset, size);
    if (OBD_UNLIKELY(!load(p, fd, &s, buf))) {
        obd_presence_forget(p, offset, size);
        return false;
    }
    uint64_t unit = s.first;
    bool good = true;

    if (s.head) {
        good = sound(p, unit++, s.before);
        memcpy(buf, s.before + s.skip, s.head);
    }
    for (size_t done = 0; done < s.body; done += UNIT)
        good = sound(p, unit++, buf + s.head + done) && good;
    if (s.tail) {
        good = sound(p, unit, s.behind) && good;
        memcpy(buf + s.head + s.body, s.behind, s.tail);
    }
    return good;
}

/* Bytes from offset on that are all in one of the two files. */
static size_t
run_of(const struct obd_presence *p, uint64_t offset, size_t size)
{
    uint64_t unit = offset >> OBD_GUARD_SHIFT, end = offset + size;
    bool is_lent = bit(p->lent, unit);

    do
        unit++;
    while (unit << OBD_GUARD_SHIFT < end && bit(p->lent, unit) == is_lent);
    return (size_t)(obd_min(unit << OBD_GUARD_SHIFT, end) - offset);
}

static void
note_use(struct obd_presence *p, uint64_t offset, size_t size)
{
    uint64_t last = (offset + size - 1) >> OBD_USE_SHIFT;

    for (uint64_t i = offset >> OBD_USE_SHIFT; i <= last; i++)
        if (!atomic_load_explicit(&p->used[i], memory_order_relaxed))
            atomic_store_explicit(&p->used[i], 1, memory_order_relaxed);
}

void
obd_presence_take_used(struct obd_presence *p, uint8_t *used, size_t n)
{
    for (size_t i = 0; p->used != NULL && i < n && i < steps_of(p); i++)
        if (atomic_exchange_explicit(&p->used[i], 0, memory_order_relaxed))
            used[i] = 1;
}

static int
absent(uint64_t offset, size_t size, struct obd_fault *fault)
{
    fault->at = offset;
    fault->want = size;
    return OBD_ABSENT;
}

int
obd_presence_read(struct obd_presence *p, int fd, uint64_t offset,
                  uint8_t *buf, size_t size, struct obd_fault *fault)
{
    if (!obd_presence_here(p, offset, size))
        return absent(offset, size, fault);
    if (p->sums == NULL || size == 0)
        return obd_file_read(fd, offset, buf, size, fault);
    note_use(p, offset, size);
    for (size_t done = 0; done < size;) {
        uint64_t at = offset + done;
        size_t part = run_of(p, at, size - done);
        int from = bit(p->lent, at >> OBD_GUARD_SHIFT) ? p->spare : fd;

        if (OBD_UNLIKELY(!read_checked(p, from, at, buf + done, part)))
            return absent(offset, size, fault);
        done += part;
    }
    return OBD_OK;
}
