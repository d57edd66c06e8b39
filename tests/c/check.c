/* SPDX-License-Identifier: Apache-2.0 */
/* check - see check.h; and main: `unit NAME...` runs these tests, or all. */

#include "check.h"

#include <sys/mman.h>

#include "inflated.h"
#include "scratch.h"

static struct test *tests;

void
register_test(struct test *t)
{
    t->next = tests;
    tests = t;
}

uint64_t
chance_next(struct chance *r)
{
    /* splitmix64 */
    uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint64_t
chance_below(struct chance *r, uint64_t n)
{
    return chance_next(r) % n;
}

void
chance_fill(struct chance *r, uint8_t *p, size_t n)
{
    uint64_t kind = chance_below(r, 3);
    size_t period = kind == 0 ? 1 : kind == 1 ? 61 : n;

    for (size_t i = 0; i < n; i++)
        p[i] = i < period ? (uint8_t)chance_next(r) : p[i - period];
}

void *
grab(size_t size)
{
    void *p = malloc(size ? size : 1);

    assert(p != NULL);
    return p;
}

int
file_of(const uint8_t *p, size_t n)
{
    int fd = memfd_create("test", MFD_CLOEXEC);

    assert(fd >= 0);
    while (n > 0) {
        ssize_t r = write(fd, p, n);

        assert(r > 0);
        p += r;
        n -= (size_t)r;
    }
    return fd;
}

struct obd_segment
entry(uint64_t start, uint64_t length, uint64_t moffset, int zeroed)
{
    return (struct obd_segment){
        start | length << OBD_START_BITS,
        moffset | (zeroed ? OBD_ZEROED_BIT : 0),
    };
}

static bool
chosen(const struct test *t, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], t->name) == 0)
            return true;
    return argc == 1;
}

int
main(int argc, char **argv)
{
    int ran = 0;

    for (const struct test *t = tests; t != NULL; t = t->next) {
        if (!chosen(t, argc, argv))
            continue;
        t->run();
        ran++;
    }
    obd_scratch_drain();
    obd_inflated_drain();
    printf("%d\n", ran);
    return ran > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
