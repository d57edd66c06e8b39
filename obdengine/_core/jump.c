/* SPDX-License-Identifier: Apache-2.0 */
/* jump - see jump.h. */

#include "jump.h"

#include <stdlib.h>

#include "bytes.h"
#include "crc32c.h"
#include "zblock.h"

#define FIRST_CAPACITY 1024

static uint64_t
blocks_of(uint64_t size, unsigned shift)
{
    return (size >> shift) + ((size & ((UINT64_C(1) << shift) - 1)) != 0);
}

struct obd_jump *
obd_jump_new(int algo, int verify, unsigned block_shift, uint64_t size,
             uint64_t first, uint64_t end)
{
    struct obd_jump *j = calloc(1, sizeof *j);

    if (j == NULL)
        return NULL;
    j->algo = algo;
    j->verify = verify != 0;
    j->block_shift = block_shift;
    j->size = size;
    j->next = first;
    j->end = end;
    j->expected = blocks_of(size, block_shift);
    j->rel = calloc(1, sizeof *j->rel);
    j->base = calloc(1, sizeof *j->base);
    if (j->rel == NULL || j->base == NULL) {
        obd_jump_free(j);
        return NULL;
    }
    j->base[0] = first;
    return j;
}

void
obd_jump_free(struct obd_jump *j)
{
    if (j == NULL)
        return;
    free(j->rel);
    free(j->base);
    free(j);
}

/* Make room for blocks blocks, and the end of the last. */
static int
grow(struct obd_jump *j, uint64_t blocks)
{
    if (blocks <= j->capacity)
        return OBD_OK;
    uint64_t capacity = obd_max(FIRST_CAPACITY, j->capacity + j->capacity / 2);

    capacity = obd_min(obd_max(capacity, blocks), j->expected);
    uint32_t *rel = realloc(j->rel, (capacity + 1) * sizeof *rel);
    if (rel == NULL)
        return OBD_NOMEM;
    j->rel = rel;
    uint64_t *base = realloc(j->base, ((capacity >> OBD_GROUP_SHIFT) + 1)
                                      * sizeof *base);
    if (base == NULL)
        return OBD_NOMEM;
    j->base = base;
    j->capacity = capacity;
    return OBD_OK;
}

static void
place(struct obd_jump *j, uint64_t i)
{
    if ((i & ((UINT64_C(1) << OBD_GROUP_SHIFT) - 1)) == 0)
        j->base[i >> OBD_GROUP_SHIFT] = j->next;
    j->rel[i] = (uint32_t)(j->next - j->base[i >> OBD_GROUP_SHIFT]);
}

int
obd_jump_feed(struct obd_jump *j, const uint8_t *src, size_t n,
              struct obd_fault *fault)
{
    uint64_t bound = obd_zblock_bound(j->algo, (size_t)1 << j->block_shift,
                                      j->verify);
    uint64_t least = 1 + (j->verify ? OBD_CRC_SIZE : 0);

    fault->block = j->nblocks;
    if (n > j->expected - j->nblocks) {
        fault->got = j->nblocks + n;
        fault->want = j->expected;
        return OBD_TOO_MANY;
    }
    int status = grow(j, j->nblocks + n);
    if (status != OBD_OK)
        return status;
    j->crc = obd_crc32c(j->crc, src, n * 4);
    for (size_t i = 0; i < n; i++, src += 4) {
        uint64_t length = obd_load32(src);

        if (length < least || length > bound || length > j->end - j->next) {
            fault->block = j->nblocks;
            fault->got = length;
            fault->want = obd_min(bound, j->end - j->next);
            return OBD_BAD_LENGTH;
        }
        j->next += length;
        place(j, ++j->nblocks);
    }
    return OBD_OK;
}

int
obd_jump_finish(const struct obd_jump *j, struct obd_fault *fault)
{
    fault->block = j->nblocks;
    if (j->nblocks != j->expected) {
        fault->got = j->nblocks;
        fault->want = j->expected;
        return OBD_TOO_MANY;
    }
    if (j->next != j->end) {
        fault->got = j->next;
        fault->want = j->end;
        return OBD_BAD_SUM;
    }
    return OBD_OK;
}

uint32_t
obd_jump_crc(const struct obd_jump *j)
{
    return j->crc;
}

uint64_t
obd_jump_blocks(const struct obd_jump *j)
{
    return j->nblocks;
}

uint64_t
obd_jump_offset(const struct obd_jump *j, uint64_t i)
{
    return obd_jump_at(j, i);
}

size_t
obd_jump_memory(const struct obd_jump *j)
{
    return sizeof *j + (j->capacity + 1) * sizeof *j->rel
           + ((j->capacity >> OBD_GROUP_SHIFT) + 1) * sizeof *j->base;
}
