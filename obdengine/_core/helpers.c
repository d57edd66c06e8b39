/* SPDX-License-Identifier: Apache-2.0 */
/* helpers - see helpers.h.
 *
 * One word says how far the work of now has come, so that taking a piece is one
 * exchange, and a helper who is late cannot take one of the next work's:
 *
 *   state = number of the work << 32 | pieces << 16 | pieces taken
 *
 * Who has taken a piece reads the rest, which stays until it is done.
 */

#include "helpers.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Nothing of ours needs more; zstd and lz4 keep theirs on the heap. */
#define STACK ((size_t)256 << 10)

/* How often the one who asks looks whether the last helper is done, before he
 * sleeps: ten microseconds, which is what waking costs.
 */
#define LOOKS 300

enum { NOT_YET, HERE, NONE };

static struct {
    _Alignas(64) _Atomic uint64_t state;
    _Atomic uint32_t done;      /* pieces, of those taken by helpers */
    _Atomic uint32_t waits;     /* somebody sleeps until more are */
    obd_share *piece;
    void *arg;
    _Alignas(64) _Atomic uint32_t bell;     /* rings when there is work */
    _Atomic bool ends;
    _Atomic bool taken;         /* somebody shares now */
    _Atomic int are;            /* one of the enum above */
    unsigned count;
    unsigned most;
    bool limited;
    bool watches_forks;
    pthread_t threads[OBD_HELPERS_MOST];
} all;

static void
sleep_while(_Atomic uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void
wake(_Atomic uint32_t *word, unsigned n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static bool
take(size_t *i)
{
    uint64_t s = atomic_load(&all.state);

    while ((s & 0xffff) < (s >> 16 & 0xffff)) {
        *i = s & 0xffff;
        if (atomic_compare_exchange_weak(&all.state, &s, s + 1))
            return true;
    }
    return false;
}

/* No more pieces are taken; returns how many were. */
static size_t
shut(void)
{
    uint64_t s = atomic_load(&all.state), taken;

    do
        taken = s & 0xffff;
    while (!atomic_compare_exchange_weak(&all.state, &s,
                                         (s & ~UINT64_C(0xffff0000))
                                         | taken << 16));
    return (size_t)taken;
}

/* Do what is left to take; returns how many pieces that were. */
static size_t
work(void)
{
    size_t i, n = 0;

    for (; take(&i); n++)
        if (all.piece(all.arg, i) != 0)
            (void)shut();
    return n;
}

/* ---- Helpers ---- */

static void *
help(void *unused)
{
    size_t i;

    (void)unused;
    for (;;) {
        uint32_t bell = atomic_load(&all.bell);

        if (atomic_load(&all.ends))
            return NULL;
        while (take(&i)) {
            if (all.piece(all.arg, i) != 0)
                (void)shut();
            atomic_fetch_add(&all.done, 1);
            if (atomic_load(&all.waits))
                wake(&all.done, 1);
        }
        sleep_while(&all.bell, bell);
    }
}

/* The child has none of the threads, and nobody else who could be in here. */
static void
forget(void)
{
    (void)shut();
    atomic_store(&all.are, NOT_YET);
    atomic_store(&all.taken, false);
    all.count = 0;
}

static unsigned
wanted(void)
{
    cpu_set_t cpus;

    if (all.limited)
        return all.most;
    if (sched_getaffinity(0, sizeof cpus, &cpus) != 0)
        return 0;
    unsigned n = (unsigned)CPU_COUNT(&cpus) - 1;

    return n < OBD_HELPERS_MOST ? n : OBD_HELPERS_MOST;
}

/* Make them.  Signals are for the threads that are here anyway. */
static void
start(void)
{
    pthread_attr_t attributes;
    sigset_t every, before;

    if (!all.watches_forks && pthread_atfork(NULL, NULL, forget) != 0)
        return;
    all.watches_forks = true;
    if (pthread_attr_init(&attributes) != 0)
        return;
    (void)pthread_attr_setstacksize(&attributes, STACK);
    sigfillset(&every);
    (void)pthread_sigmask(SIG_SETMASK, &every, &before);
    for (unsigned n = wanted(); all.count < n; all.count++)
        if (pthread_create(&all.threads[all.count], &attributes, help, NULL)
            != 0)
            break;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

void
obd_helpers_limit(unsigned most)
{
    atomic_store(&all.ends, true);
    atomic_fetch_add(&all.bell, 1);
    wake(&all.bell, INT_MAX);
    while (all.count > 0)
        pthread_join(all.threads[--all.count], NULL);
    atomic_store(&all.ends, false);
    all.most = most < OBD_HELPERS_MOST ? most : OBD_HELPERS_MOST;
    all.limited = true;
    atomic_store(&all.are, NOT_YET);
}

/* ---- Who is helped ---- */

static bool
begin(void)
{
    if (atomic_load_explicit(&all.are, memory_order_relaxed) == NONE
        || atomic_exchange(&all.taken, true))
        return false;
    if (atomic_load(&all.are) == NOT_YET) {
        start();
        atomic_store(&all.are, all.count > 0 ? HERE : NONE);
    }
    if (atomic_load(&all.are) == HERE)
        return true;
    atomic_store(&all.taken, false);
    return false;
}

static void
breathe(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void
wait_for(size_t pieces)
{
    uint32_t done = atomic_load(&all.done);

    for (int i = 0; i < LOOKS && done != pieces; i++) {
        breathe();
        done = atomic_load(&all.done);
    }
    if (done == pieces)
        return;
    atomic_store(&all.waits, 1);
    while ((done = atomic_load(&all.done)) != pieces)
        sleep_while(&all.done, done);
    atomic_store(&all.waits, 0);
}

bool
obd_helpers_share(obd_share *piece, void *arg, size_t n)
{
    if (!begin())
        return false;
    uint64_t number = (atomic_load(&all.state) >> 32) + 1;

    all.piece = piece;
    all.arg = arg;
    atomic_store(&all.done, 0);
    atomic_store(&all.state, number << 32 | (uint64_t)n << 16);
    atomic_fetch_add(&all.bell, 1);
    wake(&all.bell, n - 1 < all.count ? (unsigned)n - 1 : all.count);
    size_t mine = work();

    wait_for(shut() - mine);
    atomic_store(&all.taken, false);
    return true;
}
