/* SPDX-License-Identifier: Apache-2.0 */
/* split - a read in pieces is the same read, and the same error. */

#include <stdatomic.h>

#include "check.h"
#include "helpers.h"
#include "split.h"
#include "stacks.h"

#define CALLS 32

/* A reader that notes what it is asked for, and fails at some places. */
struct noted {
    const struct stack *stack;
    _Atomic size_t n;
    uint64_t offset[CALLS];
    uint64_t size[CALLS];
    uint64_t bad[2];            /* offsets that cannot be read */
};

static int
read_noted(const void *of, uint64_t offset, uint8_t *buf, size_t size,
           struct obd_fault *fault)
{
    struct noted *o = (struct noted *)(uintptr_t)of;
    size_t i = atomic_fetch_add(&o->n, 1);

    assert(i < CALLS);
    o->offset[i] = offset;
    o->size[i] = size;
    for (int k = 0; k < 2; k++)
        if (o->bad[k] >= offset && o->bad[k] < offset + size) {
            fault->at = o->bad[k];
            return OBD_IO;
        }
    memcpy(buf, o->stack->flat + offset, size);
    return OBD_OK;
}

static void
check_pieces(const struct noted *o, uint64_t offset, size_t size)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < o->n; i++) {
        sum += o->size[i];
        assert(o->size[i] > 0);
        for (size_t k = 0; k < i; k++)
            assert(o->offset[i] + o->size[i] <= o->offset[k]
                   || o->offset[k] + o->size[k] <= o->offset[i]);
        assert(o->offset[i] >= offset
               && o->offset[i] + o->size[i] <= offset + size);
    }
    SAME(sum, size);
}

/* Returns into how many pieces a read was cut. */
static size_t
read_one(const struct stack *s, struct chance *r)
{
    size_t size = OBD_SPLIT_FROM
                  + chance_below(r, s->size - OBD_SPLIT_FROM + 1);
    uint64_t offset = chance_below(r, s->size - size + 1);
    struct noted o = { .stack = s, .bad = { UINT64_MAX, UINT64_MAX } };
    struct obd_split split = { s->map, s->blobs, &o, read_noted };
    struct obd_fault fault = { 0 };
    uint8_t *buf = grab(size);

    SAME(obd_split_read(&split, offset, buf, size, &fault), OBD_OK);
    check_pieces(&o, offset, size);
    SAME(memcmp(buf, s->flat + offset, size), 0);
    size_t n = o.n;

    o.n = 0;
    o.bad[0] = offset + chance_below(r, size);
    o.bad[1] = offset + size - 1;
    SAME(obd_split_read(&split, offset, buf, size, &fault), OBD_IO);
    SAME(fault.at, o.bad[0]);
    SAME(obd_device_read(s->device, offset, buf, size, &fault), OBD_OK);
    SAME(memcmp(buf, s->flat + offset, size), 0);
    free(buf);
    return n;
}

TEST(split_reads)
{
    struct chance r = { 11 };
    size_t cut = 0;

    obd_helpers_limit(2);
    for (int i = 0; i < 60; i++) {
        struct stack s;

        stack_make(&s, &r);
        for (int k = 0; k < 4 && s.size >= OBD_SPLIT_FROM; k++)
            cut += read_one(&s, &r) > 1;
        stack_free(&s);
    }
    assert(cut > 20);
    obd_helpers_limit(0);
}
