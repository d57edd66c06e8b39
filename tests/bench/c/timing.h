/* SPDX-License-Identifier: Apache-2.0 */
/* timing - a clock, a generator and the one way that samples are printed. */

#ifndef BENCH_TIMING_H
#define BENCH_TIMING_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static inline double
seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* splitmix64: the same numbers on every machine. */
static inline uint64_t
next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static inline uint64_t
random_below(uint64_t *state, uint64_t limit)
{
    return limit ? next_random(state) % limit : 0;
}

static inline void *
need(void *p)
{
    if (p == NULL) {
        fprintf(stderr, "no memory\n");
        exit(1);
    }
    return p;
}

/* A line that harness.py reads: who, what, value. */
static inline void
sample(const char *rival, const char *what, double value)
{
    printf("%s\t%s\t%.9g\n", rival, what, value);
}

#endif
