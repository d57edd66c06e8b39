/* SPDX-License-Identifier: Apache-2.0 */
/* helpers - every piece once, by whoever is free, and in a child of fork(). */

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "check.h"
#include "helpers.h"

#define MOST 64
#define THREADS 4

struct job {
    _Atomic unsigned done[MOST];
    size_t bad;                 /* piece that fails; MOST: none */
};

static int
do_piece(void *arg, size_t i)
{
    struct job *j = arg;

    atomic_fetch_add(&j->done[i], 1);
    return i == j->bad;
}

/* Whether it was shared; then each piece up to the bad one was done once, and
 * none twice.
 */
static bool
share(size_t n, size_t bad)
{
    struct job j = { .bad = bad };
    bool shared = obd_helpers_share(do_piece, &j, n);

    for (size_t i = 0; i < MOST; i++) {
        unsigned done = atomic_load(&j.done[i]);

        if (!shared || i >= n)
            SAME(done, 0);
        else if (i <= bad)
            SAME(done, 1);
        else
            assert(done <= 1);
    }
    return shared;
}

TEST(helpers_do_each_piece_once)
{
    struct chance r = { 1 };

    for (unsigned most = 1; most <= OBD_HELPERS_MOST; most++) {
        obd_helpers_limit(most);
        for (int i = 0; i < 500; i++)
            assert(share(2 + chance_below(&r, MOST - 1), MOST));
    }
    obd_helpers_limit(0);
}

TEST(helpers_stop_at_a_bad_piece)
{
    struct chance r = { 2 };

    obd_helpers_limit(2);
    for (int i = 0; i < 500; i++)
        assert(share(MOST, chance_below(&r, MOST)));
    obd_helpers_limit(0);
}

TEST(helpers_that_are_none)
{
    obd_helpers_limit(0);
    assert(!share(8, MOST));
    obd_helpers_limit(1);
    assert(share(8, MOST));
    obd_helpers_limit(0);
    assert(!share(8, MOST));
}

static int
share_inside(void *arg, size_t i)
{
    (void)i;
    /* They are busy with us. */
    assert(!share(4, MOST));
    atomic_fetch_add((_Atomic unsigned *)arg, 1);
    return 0;
}

TEST(helpers_help_one_at_a_time)
{
    _Atomic unsigned n = 0;

    obd_helpers_limit(1);
    assert(obd_helpers_share(share_inside, &n, 3));
    SAME(n, 3);
    obd_helpers_limit(0);
}

static void *
share_often(void *arg)
{
    struct chance r = { (uint64_t)(uintptr_t)arg };

    for (int i = 0; i < 500; i++)
        (void)share(2 + chance_below(&r, MOST - 1), MOST);
    return NULL;
}

TEST(helpers_asked_by_many_threads)
{
    pthread_t threads[THREADS];

    obd_helpers_limit(2);
    for (size_t i = 0; i < THREADS; i++)
        SAME(pthread_create(&threads[i], NULL, share_often, (void *)(i + 1)),
             0);
    for (size_t i = 0; i < THREADS; i++)
        SAME(pthread_join(threads[i], NULL), 0);
    assert(share(8, MOST));
    obd_helpers_limit(0);
}

TEST(helpers_of_a_child)
{
    int status = 0;

    obd_helpers_limit(2);
    assert(share(8, MOST));
#if !defined(__SANITIZE_THREAD__)
    /* The thread sanitizer takes no child that makes threads. */
    pid_t child = fork();

    if (child == 0) {
        for (int i = 0; i < 100; i++)
            assert(share(8, MOST));
        _exit(0);
    }
    SAME(waitpid(child, &status, 0), child);
    SAME(status, 0);
#endif
    (void)status;
    assert(share(8, MOST));
    obd_helpers_limit(0);
}
