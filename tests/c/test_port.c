/* SPDX-License-Identifier: Apache-2.0 */
/* port - devices are exchanged, and freed, under requests of many threads. */

#include <pthread.h>
#include <stdatomic.h>

#include "native.h"
#include "stacks.h"
#include "uppers.h"

#define READERS 3
#define WRITERS 3
#define EXCHANGES 60
#define READ 3000

struct reader {
    struct obd_port *port;
    const struct stack *stacks;         /* two of them */
    uint64_t size;                      /* of the smaller one */
    struct chance chance;
    _Atomic bool *over;
    _Atomic uint64_t *reads;
    pthread_t thread;
};

static void *
read_on(void *arg)
{
    struct reader *me = arg;
    uint8_t buf[READ];
    struct obd_fault f;

    while (!atomic_load(me->over)) {
        uint64_t at = chance_below(&me->chance, me->size - READ);
        int status = obd_port_read(me->port, at, buf, READ, &f);

        if (status == OBD_BAD_ARGUMENT)         /* none is there just now */
            continue;
        SAME(status, OBD_OK);
        assert(memcmp(buf, me->stacks[0].flat + at, READ) == 0
               || memcmp(buf, me->stacks[1].flat + at, READ) == 0);
        atomic_fetch_add(me->reads, 1);
    }
    return NULL;
}

/* A device of its own over the blobs and the map of a stack. */
static struct obd_device *
again(const struct stack *s)
{
    struct obd_device *d = obd_device_new(s->blobs, s->nlayers, s->map, NULL,
                                          s->size);

    assert(d != NULL);
    return d;
}

TEST(port_exchanges_under_readers)
{
    struct chance r = { 11 };
    struct stack stacks[2];
    struct reader readers[READERS];
    struct obd_port *port = obd_port_new();
    struct obd_device *now = NULL;
    _Atomic bool over = false;
    _Atomic uint64_t reads = 0;

    for (int i = 0; i < 2; i++)
        stack_make(&stacks[i], &r);
    uint64_t size = stacks[0].size < stacks[1].size ? stacks[0].size
                                                    : stacks[1].size;
    for (unsigned i = 0; i < READERS; i++) {
        readers[i] = (struct reader){ port, stacks, size, { i }, &over,
                                      &reads, 0 };
        SAME(pthread_create(&readers[i].thread, NULL, read_on, &readers[i]),
             0);
    }
    for (unsigned i = 0; i < EXCHANGES || atomic_load(&reads) < 100; i++) {
        struct obd_device *next = i % 7 == 6 ? NULL : again(&stacks[i % 2]);

        obd_port_use(port, next, 0);
        obd_device_free(now);
        now = next;
    }
    atomic_store(&over, true);
    for (unsigned i = 0; i < READERS; i++)
        pthread_join(readers[i].thread, NULL);
    obd_port_drop(port);
    obd_device_free(now);
    for (int i = 0; i < 2; i++)
        stack_free(&stacks[i]);
}

struct writer {
    struct obd_port *port;
    uint64_t number;
    _Atomic bool *over;
    _Atomic unsigned *inside;   /* writes that are in the upper just now */
    _Atomic uint64_t *writes;
    pthread_t thread;
};

static void *
write_on(void *arg)
{
    struct writer *me = arg;
    uint8_t sector[SECTOR];
    struct obd_fault f;

    memset(sector, 1 + (int)me->number, sizeof sector);
    do {
        SAME(obd_port_write(me->port, me->number * SECTOR, sector, SECTOR, &f),
             OBD_OK);
        /* Absent: done, and after so many the log is worth writing anew. */
        int flushed = obd_port_flush(me->port, &f);

        SAME(flushed == OBD_OK || flushed == OBD_ABSENT, true);
        obd_port_pass(me->port);
        atomic_fetch_add(me->inside, 1);
        atomic_fetch_sub(me->inside, 1);
        obd_port_leave(me->port);
        atomic_fetch_add(me->writes, 1);
    } while (!atomic_load(me->over));
    return NULL;
}

TEST(port_gate_waits_for_writers_and_holds_them)
{
    struct rig rig;
    struct obd_port *port = obd_port_new();
    struct obd_segment none = { 0, 0 };
    struct obd_blob *nothing[1] = { NULL };
    struct obd_segmap *map = obd_segmap_new(&none, 0);
    struct writer writers[WRITERS];
    _Atomic bool over = false;
    _Atomic unsigned inside = 0;
    _Atomic uint64_t writes = 0;

    rig_make(&rig, 64, false, 0);
    struct obd_device *d = obd_device_new(nothing, 0, map, rig.upper,
                                          64 * SECTOR);
    obd_port_use(port, d, 1);
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){ port, i, &over, &inside, &writes, 0 };
        SAME(pthread_create(&writers[i].thread, NULL, write_on, &writers[i]),
             0);
    }
    for (unsigned i = 0; i < 20 || atomic_load(&writes) < 50; i++) {
        obd_port_shut(port);
        uint64_t before = atomic_load(&inside);

        SAME(before, 0);
        SAME(atomic_load(&inside), 0);
        obd_port_open(port);
    }
    atomic_store(&over, true);
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_join(writers[i].thread, NULL);
    for (unsigned i = 0; i < WRITERS; i++) {
        uint8_t got[SECTOR];
        struct obd_fault f;

        SAME(obd_port_read(port, i * SECTOR, got, SECTOR, &f), OBD_OK);
        SAME(got[7], 1 + i);
    }
    obd_port_use(port, NULL, 0);
    obd_port_drop(port);
    obd_device_free(d);
    obd_segmap_free(map);
    rig_free(&rig);
}

TEST(native_is_the_port)
{
    struct chance r = { 5 };
    struct stack s;
    struct obd_native n;
    struct obd_port *port = obd_port_new();
    uint8_t buf[100];
    size_t found;
    struct obd_extent e;
    struct obd_fault f;

    stack_make(&s, &r);
    obd_native_fill(&n, port);
    SAME(n.version, OBD_NATIVE_VERSION);
    n.hold(n.port);
    obd_port_drop(port);
    SAME(n.read(n.port, 0, buf, sizeof buf, &f), OBD_BAD_ARGUMENT);
    SAME(n.extents(n.port, 0, 1, &e, 1, &found, &f), OBD_BAD_ARGUMENT);
    SAME(n.present(n.port, 0, 1, &f), OBD_BAD_ARGUMENT);
    SAME(n.flush(n.port, &f), OBD_BAD_ARGUMENT);
    obd_port_use(n.port, s.device, 0);
    SAME(n.read(n.port, 9, buf, sizeof buf, &f), OBD_OK);
    SAME(memcmp(buf, s.flat + 9, sizeof buf), 0);
    SAME(n.read(n.port, s.size, buf, 1, &f), OBD_OUT_OF_RANGE);
    SAME(n.extents(n.port, 0, s.size, &e, 1, &found, &f), OBD_OK);
    SAME(found, 1);
    SAME(n.write(n.port, 0, buf, 1, &f), OBD_READ_ONLY);
    SAME(n.zero(n.port, 0, 1, &f), OBD_READ_ONLY);
    SAME(n.discard(n.port, 0, 1, &f), OBD_READ_ONLY);
    obd_port_use(n.port, NULL, 0);
    n.drop(n.port);
    stack_free(&s);
}
