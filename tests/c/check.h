/* SPDX-License-Identifier: Apache-2.0 */
/* check - what the C tests share: a test, an assertion, chance, a file.
 *
 * A test is a function that returns; whatever is wrong ends the program.
 */

#ifndef CHECK_H
#define CHECK_H

#undef NDEBUG
#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "obd.h"

struct test {
    const char *name;
    void (*run)(void);
    struct test *next;
};

extern void register_test(struct test *t);

#define TEST(NAME)                                                      \
    static void test_##NAME(void);                                      \
    static struct test entry_##NAME = { #NAME, test_##NAME, NULL };     \
    __attribute__((constructor)) static void enter_##NAME(void)         \
    {                                                                   \
        register_test(&entry_##NAME);                                   \
    }                                                                   \
    static void test_##NAME(void)

/* An equality that shows both sides. */
#define SAME(A, B)                                                      \
    do {                                                                \
        uint64_t a_ = (uint64_t)(A), b_ = (uint64_t)(B);                \
        if (a_ != b_) {                                                 \
            fprintf(stderr, "%s:%d: %s is %llu, %s is %llu\n",          \
                    __FILE__, __LINE__, #A, (unsigned long long)a_,     \
                    #B, (unsigned long long)b_);                        \
            abort();                                                    \
        }                                                               \
    } while (0)

/* Numbers that are the same in every run; below(r, n) is 0 to n - 1. */
struct chance {
    uint64_t state;
};

extern uint64_t chance_next(struct chance *r);
extern uint64_t chance_below(struct chance *r, uint64_t n);

/* Fill p[n]: one byte value, a short pattern, or noise. */
extern void chance_fill(struct chance *r, uint8_t *p, size_t n);

/* malloc that succeeds. */
extern void *grab(size_t size);

/* A descriptor of an unnamed file that holds p[n]. */
extern int file_of(const uint8_t *p, size_t n);

/* The entry with these words, tag 0. */
extern struct obd_segment entry(uint64_t start, uint64_t length,
                                uint64_t moffset, int zeroed);

#endif
