/* SPDX-License-Identifier: Apache-2.0 */
/* inflated - see inflated.h.
 *
 * A block has a set of WAYS places, found by its number, with a lock of its
 * own that is held for a copy.  The place that was used least lately goes.
 */

#include "inflated.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "codec.h"

#define WAYS 4
#define SETS (OBD_INFLATED_MOST / WAYS)

struct place {
    uint64_t blob;              /* 0: empty; ids are never used twice */
    uint64_t block;
    uint64_t used;              /* when, by the set's clock */
    uint8_t *bytes;
};

struct set {
    _Alignas(64) pthread_mutex_t lock;
    uint64_t clock;
    struct place places[WAYS];
};

static struct set sets[SETS] = {
    [0 ... SETS - 1] = { .lock = PTHREAD_MUTEX_INITIALIZER }
};

static struct set *
set_of(uint64_t blob, uint64_t block)
{
    /* Neighbours go to different sets, and so do the same of other blobs. */
    return &sets[(block + blob * 37) % SETS];
}

/* Its place, or the one to be given up for it; the lock is held. */
static struct place *
find(struct set *s, uint64_t blob, uint64_t block, bool *here)
{
    struct place *oldest = &s->places[0];

    *here = true;
    for (struct place *p = s->places; p < s->places + WAYS; p++) {
        if (p->blob == blob && p->block == block)
            return p;
        if (p->used < oldest->used)
            oldest = p;
    }
    *here = false;
    return oldest;
}

bool
obd_inflated_copy(uint64_t blob, uint64_t block, size_t skip, uint8_t *buf,
                  size_t size)
{
    struct set *s = set_of(blob, block);
    bool here;

    pthread_mutex_lock(&s->lock);
    struct place *p = find(s, blob, block, &here);

    if (here) {
        memcpy(buf, p->bytes + skip, size);
        p->used = ++s->clock;
    }
    pthread_mutex_unlock(&s->lock);
    return here;
}

void
obd_inflated_keep(uint64_t blob, uint64_t block, uint8_t **bytes)
{
    struct set *s = set_of(blob, block);
    bool here;

    pthread_mutex_lock(&s->lock);
    struct place *p = find(s, blob, block, &here);
    uint8_t *other = p->bytes ? p->bytes : malloc(OBD_BLOCK_MAX);

    if (other != NULL) {
        *p = (struct place){ blob, block, ++s->clock, *bytes };
        *bytes = other;
    }
    pthread_mutex_unlock(&s->lock);
}

size_t
obd_inflated_memory(void)
{
    size_t n = 0;

    for (struct set *s = sets; s < sets + SETS; s++) {
        pthread_mutex_lock(&s->lock);
        for (int i = 0; i < WAYS; i++)
            n += s->places[i].bytes != NULL;
        pthread_mutex_unlock(&s->lock);
    }
    return n * OBD_BLOCK_MAX;
}

void
obd_inflated_drain(void)
{
    for (struct set *s = sets; s < sets + SETS; s++) {
        pthread_mutex_lock(&s->lock);
        for (int i = 0; i < WAYS; i++) {
            free(s->places[i].bytes);
            s->places[i] = (struct place){ 0 };
        }
        pthread_mutex_unlock(&s->lock);
    }
}
