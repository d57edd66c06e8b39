/* SPDX-License-Identifier: Apache-2.0 */
/* bytes - little-endian loads and stores, arithmetic that says when it wraps. */

#ifndef OBD_BYTES_H
#define OBD_BYTES_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "obdengine's core is written for little-endian machines"
#endif

static inline uint32_t
obd_load32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint64_t
obd_load64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof v);
    return v;
}

static inline void
obd_store32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, sizeof v);
}

static inline void
obd_store64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, sizeof v);
}

/* *sum = a + b; false when that does not fit. */
static inline bool
obd_add(uint64_t a, uint64_t b, uint64_t *sum)
{
    return !__builtin_add_overflow(a, b, sum);
}

static inline uint64_t
obd_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t
obd_max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

#endif
