/* SPDX-License-Identifier: Apache-2.0 */
/* port - see port.h. */

#include "port.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#define STRIPES 8               /* a power of two */

/* How often the rare one who waits for all looks again: 50 us. */
#define LOOK_AGAIN_NS 50000

/* What threads count, on a cache line that few of them share. */
struct stripe {
    _Alignas(64) _Atomic uint64_t readers[2];   /* by epoch */
    _Atomic uint64_t writers;
};

struct obd_port {
    struct stripe stripes[STRIPES];
    _Alignas(64) _Atomic(struct obd_device *) device;
    _Atomic unsigned epoch;
    _Atomic bool writable;
    _Atomic bool is_shut;
    _Atomic unsigned users;
    pthread_mutex_t lock;       /* who waits for the gate */
    pthread_cond_t opened;
};

static _Atomic unsigned next_home;
static _Thread_local unsigned home;     /* stripe + 1, 0 before first use */

static struct stripe *
own_stripe(struct obd_port *p)
{
    if (home == 0)
        home = 1 + atomic_fetch_add(&next_home, 1) % STRIPES;
    return &p->stripes[home - 1];
}

static void
wait_a_little(void)
{
    (void)nanosleep(&(struct timespec){ .tv_nsec = LOOK_AGAIN_NS }, NULL);
}

struct obd_port *
obd_port_new(void)
{
    struct obd_port *p = aligned_alloc(64, sizeof *p);

    if (p == NULL)
        return NULL;
    *p = (struct obd_port){ .users = 1 };
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->opened, NULL);
    return p;
}

void
obd_port_hold(struct obd_port *p)
{
    atomic_fetch_add(&p->users, 1);
}

void
obd_port_drop(struct obd_port *p)
{
    if (p == NULL || atomic_fetch_sub(&p->users, 1) != 1)
        return;
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->opened);
    free(p);
}

/* ---- Readers ----
 *
 * Who enters counts himself and then takes the device; who exchanges it
 * changes the device and then looks at the counts.  So whoever has the old one
 * is seen.  Counts are by epoch, which is turned twice: each is waited for
 * while newcomers count in the other, so no stream of them holds it up.
 */

struct visit {
    struct obd_device *device;
    _Atomic uint64_t *count;
};

static struct visit
enter(struct obd_port *p)
{
    unsigned epoch = atomic_load(&p->epoch) % 2;
    struct visit v = { .count = &own_stripe(p)->readers[epoch] };

    atomic_fetch_add(v.count, 1);
    v.device = atomic_load(&p->device);
    return v;
}

static void
leave(struct visit v)
{
    atomic_fetch_sub_explicit(v.count, 1, memory_order_release);
}

static bool
has_readers(struct obd_port *p, unsigned epoch)
{
    for (unsigned i = 0; i < STRIPES; i++)
        if (atomic_load(&p->stripes[i].readers[epoch]) != 0)
            return true;
    return false;
}

void
obd_port_use(struct obd_port *p, struct obd_device *d, int writable)
{
    atomic_store(&p->writable, writable != 0);
    atomic_store(&p->device, d);
    for (int i = 0; i < 2; i++) {
        unsigned old = atomic_fetch_add(&p->epoch, 1) % 2;

        while (has_readers(p, old))
            wait_a_little();
    }
}

void
obd_port_end(struct obd_port *p)
{
    if (p == NULL)
        return;
    obd_port_use(p, NULL, 0);
    obd_port_drop(p);
}

/* ---- The gate ---- */

void
obd_port_pass(struct obd_port *p)
{
    _Atomic uint64_t *writers = &own_stripe(p)->writers;

    atomic_fetch_add(writers, 1);
    while (OBD_UNLIKELY(atomic_load(&p->is_shut))) {
        atomic_fetch_sub(writers, 1);
        pthread_mutex_lock(&p->lock);
        while (atomic_load(&p->is_shut))
            pthread_cond_wait(&p->opened, &p->lock);
        pthread_mutex_unlock(&p->lock);
        atomic_fetch_add(writers, 1);
    }
}

void
obd_port_leave(struct obd_port *p)
{
    atomic_fetch_sub(&own_stripe(p)->writers, 1);
}

/* A thread keeps its stripe, so each stripe's count is right by itself. */
static bool
has_writers(struct obd_port *p)
{
    for (unsigned i = 0; i < STRIPES; i++)
        if (atomic_load(&p->stripes[i].writers) != 0)
            return true;
    return false;
}

void
obd_port_shut(struct obd_port *p)
{
    pthread_mutex_lock(&p->lock);
    while (atomic_load(&p->is_shut))
        pthread_cond_wait(&p->opened, &p->lock);
    atomic_store(&p->is_shut, true);
    pthread_mutex_unlock(&p->lock);
    while (has_writers(p))
        wait_a_little();
}

void
obd_port_open(struct obd_port *p)
{
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->is_shut, false);
    pthread_cond_broadcast(&p->opened);
    pthread_mutex_unlock(&p->lock);
}

/* ---- Requests ---- */

int
obd_port_read(struct obd_port *p, uint64_t offset, uint8_t *buf, size_t size,
              struct obd_fault *fault)
{
    struct visit v = enter(p);
    int status = OBD_LIKELY(v.device != NULL)
                 ? obd_device_read(v.device, offset, buf, size, fault)
                 : OBD_BAD_ARGUMENT;

    leave(v);
    return status;
}

int
obd_port_gather(struct obd_port *p, uint64_t offset, uint64_t size,
                struct obd_gather *g, struct obd_fault *fault)
{
    struct visit v = enter(p);
    int status = OBD_LIKELY(v.device != NULL)
                 ? obd_gather(v.device, offset, size, g, fault)
                 : OBD_BAD_ARGUMENT;

    g->visit = NULL;
    if (status == OBD_OK && g->kind == OBD_GATHERED_WINDOWS)
        g->visit = v.count;
    else
        leave(v);
    return status;
}

void
obd_port_let_go(struct obd_gather *g)
{
    struct visit v = { .count = g->visit };

    g->visit = NULL;
    if (v.count != NULL)
        leave(v);
}

static struct visit
enter_writing(struct obd_port *p)
{
    obd_port_pass(p);
    return enter(p);
}

static void
leave_writing(struct obd_port *p, struct visit v)
{
    leave(v);
    obd_port_leave(p);
}

static int
may_write(struct obd_port *p, struct visit v)
{
    if (v.device == NULL)
        return OBD_BAD_ARGUMENT;
    return atomic_load(&p->writable) ? OBD_OK : OBD_READ_ONLY;
}

int
obd_port_write(struct obd_port *p, uint64_t offset, const uint8_t *buf,
               size_t size, struct obd_fault *fault)
{
    struct visit v = enter_writing(p);
    int status = may_write(p, v);

    if (status == OBD_OK)
        status = obd_device_write(v.device, offset, buf, size, fault);
    leave_writing(p, v);
    return status;
}

int
obd_port_zero(struct obd_port *p, uint64_t offset, uint64_t size,
              struct obd_fault *fault)
{
    struct visit v = enter_writing(p);
    int status = may_write(p, v);

    if (status == OBD_OK)
        status = obd_device_zero(v.device, offset, size, fault);
    leave_writing(p, v);
    return status;
}

int
obd_port_discard(struct obd_port *p, uint64_t offset, uint64_t size,
                 struct obd_fault *fault)
{
    struct visit v = enter_writing(p);
    int status = may_write(p, v);

    if (status == OBD_OK)
        status = obd_device_discard(v.device, offset, size, fault);
    leave_writing(p, v);
    return status;
}

int
obd_port_flush(struct obd_port *p, struct obd_fault *fault)
{
    struct visit v = enter_writing(p);
    int status = may_write(p, v);

    if (status == OBD_OK)
        status = obd_device_flush(v.device, fault);
    if (status == OBD_OK && obd_device_wants_upkeep(v.device))
        status = OBD_ABSENT;
    leave_writing(p, v);
    return status;
}

int
obd_port_extents(struct obd_port *p, uint64_t offset, uint64_t size,
                 struct obd_extent *out, size_t cap, size_t *n,
                 struct obd_fault *fault)
{
    struct visit v = enter(p);
    int status = v.device != NULL
                 ? obd_device_extents(v.device, offset, size, out, cap, n,
                                      fault)
                 : OBD_BAD_ARGUMENT;

    leave(v);
    return status;
}

int
obd_port_present(struct obd_port *p, uint64_t offset, uint64_t size,
                 struct obd_fault *fault)
{
    struct obd_range absent;
    size_t n = 0;
    struct visit v = enter(p);
    int status = v.device != NULL
                 ? obd_device_ranges(v.device, offset, size, 1, &absent, 1, &n,
                                     fault)
                 : OBD_BAD_ARGUMENT;

    leave(v);
    return status == OBD_OK && n > 0 ? OBD_ABSENT : status;
}
