/* SPDX-License-Identifier: Apache-2.0 */
/* record - see record.h. */

#include "record.h"

#include <stdbool.h>

#include "bytes.h"

static int
refuse(struct obd_fault *fault, int status, uint64_t got, uint64_t want)
{
    fault->got = got;
    fault->want = want;
    return status;
}

/* 50 + 14 and 55 + 14 bits: no sum here can wrap. */
static int
check(const struct obd_segment *s, uint64_t last_end,
      const struct obd_bounds *b, struct obd_fault *fault)
{
    uint64_t end = obd_end(s), data_end = obd_moffset(s) + obd_length(s);
    uint64_t disk_end = b->disk_end ? b->disk_end : OBD_START_MASK;

    if (disk_end > OBD_START_MASK)
        disk_end = OBD_START_MASK;

    if (obd_length(s) == 0)
        return refuse(fault, OBD_EMPTY_ENTRY, 0, 1);
    if (obd_start(s) < last_end)
        return refuse(fault, OBD_DISORDER, obd_start(s), last_end);
    if (end > disk_end)
        return refuse(fault, OBD_BEYOND_DISK, end, disk_end);
    if (obd_zeroed(s))
        return OBD_OK;
    if (obd_moffset(s) < b->data_start)
        return refuse(fault, OBD_BEFORE_DATA, obd_moffset(s), b->data_start);
    if (data_end > b->data_end)
        return refuse(fault, OBD_BEYOND_DATA, data_end, b->data_end);
    return OBD_OK;
}

/* The tag is that on disk, less the smallest. */
static int
check_turbo(struct obd_segment *s, unsigned tag, uint64_t last_end,
            const struct obd_bounds *b, uint64_t target_end,
            struct obd_fault *fault)
{
    struct obd_bounds target = { b->disk_end, 0, target_end };

    if (tag > 1)
        return refuse(fault, OBD_BAD_TAG, tag, 1);
    int status = check(s, last_end, tag ? &target : b, fault);

    if (status == OBD_OK && tag && !obd_zeroed(s))
        s->hi |= OBD_TARGET_MOFFSET;
    return status;
}

static bool
is_padding(const uint8_t *src)
{
    return (obd_load64(src) & OBD_START_MASK) == OBD_PADDING_START;
}

static uint8_t
smallest_tag(const uint8_t *src, size_t n)
{
    uint8_t least = UINT8_MAX;

    for (; n > 0; n--, src += OBD_RECORD_SIZE)
        if (!is_padding(src) && src[OBD_RECORD_SIZE - 1] < least)
            least = src[OBD_RECORD_SIZE - 1];
    return least;
}

static int
unpack(const uint8_t *src, size_t n, const struct obd_bounds *bounds,
       const uint64_t *target_end, struct obd_segment *dst, size_t *count,
       struct obd_fault *fault)
{
    uint64_t last_end = 0;
    size_t kept = 0;
    uint8_t least = target_end ? smallest_tag(src, n) : 0;

    for (size_t i = 0; i < n; i++, src += OBD_RECORD_SIZE) {
        struct obd_segment s = {
            .lo = obd_load64(src),
            .hi = obd_load64(src + 8) & (OBD_ZEROED_BIT | OBD_MOFFSET_MASK),
        };

        if (is_padding(src))
            continue;
        unsigned tag = src[OBD_RECORD_SIZE - 1];
        int status = target_end
                     ? check_turbo(&s, tag - least, last_end, bounds,
                                   *target_end, fault)
                     : check(&s, last_end, bounds, fault);

        if (status != OBD_OK) {
            fault->at = i;
            return status;
        }
        last_end = obd_end(&s);
        dst[kept++] = s;
    }
    *count = kept;
    return OBD_OK;
}

int
obd_record_unpack(const uint8_t *src, size_t n,
                  const struct obd_bounds *bounds, struct obd_segment *dst,
                  size_t *count, struct obd_fault *fault)
{
    return unpack(src, n, bounds, NULL, dst, count, fault);
}

int
obd_record_unpack_turbo(const uint8_t *src, size_t n,
                        const struct obd_bounds *bounds, uint64_t target_end,
                        struct obd_segment *dst, size_t *count,
                        struct obd_fault *fault)
{
    return unpack(src, n, bounds, &target_end, dst, count, fault);
}

void
obd_record_pack(const struct obd_segment *src, size_t n, uint8_t *dst)
{
    for (size_t i = 0; i < n; i++, dst += OBD_RECORD_SIZE) {
        obd_store64(dst, src[i].lo);
        obd_store64(dst + 8,
                    src[i].hi & (OBD_ZEROED_BIT | OBD_MOFFSET_MASK));
    }
}
