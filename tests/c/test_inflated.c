/* SPDX-License-Identifier: Apache-2.0 */
/* inflated - what is kept is what was put in, or is not there. */

#include <pthread.h>

#include "check.h"
#include "codec.h"
#include "inflated.h"

#define THREADS 4
#define BLOBS 3
#define BLOCKS (2 * OBD_INFLATED_MOST)

static void
stamp(uint8_t *p, uint64_t blob, uint64_t block)
{
    uint64_t words[2] = { blob, block };

    memcpy(p, words, sizeof words);
    memcpy(p + OBD_BLOCK_MAX - sizeof words, words, sizeof words);
}

static void
use_one(struct chance *r, uint8_t **own)
{
    uint64_t words[2], blob = 1 + chance_below(r, BLOBS);
    uint64_t block = chance_below(r, BLOCKS);
    size_t skip = chance_below(r, 2) ? 0 : OBD_BLOCK_MAX - sizeof words;

    if (obd_inflated_copy(blob, block, skip, (uint8_t *)words,
                          sizeof words)) {
        SAME(words[0], blob);
        SAME(words[1], block);
        return;
    }
    stamp(*own, blob, block);
    obd_inflated_keep(blob, block, own);
    assert(*own != NULL);
}

static void *
use(void *arg)
{
    struct chance r = { (uint64_t)(uintptr_t)arg };
    uint8_t *own = grab(OBD_BLOCK_MAX);

    for (int i = 0; i < 4000; i++)
        use_one(&r, &own);
    free(own);
    return NULL;
}

TEST(inflated_from_many_threads)
{
    pthread_t threads[THREADS];

    for (size_t i = 0; i < THREADS; i++)
        SAME(pthread_create(&threads[i], NULL, use, (void *)(i + 1)), 0);
    for (size_t i = 0; i < THREADS; i++)
        SAME(pthread_join(threads[i], NULL), 0);
    assert(obd_inflated_memory() <= OBD_INFLATED_MOST * OBD_BLOCK_MAX);
    obd_inflated_drain();
    SAME(obd_inflated_memory(), 0);
}

TEST(inflated_keeps_what_was_used_last)
{
    uint8_t *own = grab(OBD_BLOCK_MAX), byte;

    for (uint64_t block = 0; block < 3 * OBD_INFLATED_MOST; block++) {
        stamp(own, 7, block);
        obd_inflated_keep(7, block, &own);
        assert(obd_inflated_copy(7, 0, 0, &byte, 1));
    }
    for (uint64_t block = 1; block < OBD_INFLATED_MOST; block++)
        assert(!obd_inflated_copy(7, block, 0, &byte, 1));
    for (uint64_t block = 2 * OBD_INFLATED_MOST + OBD_INFLATED_MOST / 4;
         block < 3 * OBD_INFLATED_MOST; block++)
        assert(obd_inflated_copy(7, block, 0, &byte, 1));
    assert(!obd_inflated_copy(8, 0, 0, &byte, 1));
    obd_inflated_drain();
    free(own);
}
