/* SPDX-License-Identifier: Apache-2.0 */
/* chunks - see chunks.h.
 *
 * A chunk's data is written by the one who claimed it, before it is ready,
 * and read by those who hold it, after; everything else is under the lock.
 */

#include "chunks.h"

#include <pthread.h>
#include <stdlib.h>

/* Buffers are of whole steps, so that one fits the next span too. */
#define STEP ((size_t)256 << 10)

static struct {
    pthread_mutex_t lock;
    pthread_cond_t settled;
    struct obd_chunk **chunk;   /* n of them, in no order */
    size_t n;
    size_t capacity;
    size_t memory;
    size_t budget;
    uint64_t clock;
} cache = { .lock = PTHREAD_MUTEX_INITIALIZER,
            .settled = PTHREAD_COND_INITIALIZER,
            .budget = OBD_CHUNKS_BUDGET };

static struct obd_chunk *
look_up(uint64_t owner, uint64_t number)
{
    for (size_t i = 0; i < cache.n; i++) {
        struct obd_chunk *c = cache.chunk[i];

        if (c->number == number && c->owner == owner)
            return c;
    }
    return NULL;
}

static void
hold(struct obd_chunk *c)
{
    c->users++;
    c->used = ++cache.clock;
}

struct obd_chunk *
obd_chunk_find(uint64_t owner, uint64_t number)
{
    pthread_mutex_lock(&cache.lock);
    struct obd_chunk *c = look_up(owner, number);

    if (c != NULL && c->ready)
        hold(c);
    else
        c = NULL;
    pthread_mutex_unlock(&cache.lock);
    return c;
}

static void
drop(size_t i)
{
    struct obd_chunk *c = cache.chunk[i];

    cache.chunk[i] = cache.chunk[--cache.n];
    cache.memory -= c->capacity;
    free(c->data);
    free(c);
}

/* The number of the chunk that was used longest ago; n when all are held. */
static size_t
oldest(void)
{
    size_t found = cache.n;

    for (size_t i = 0; i < cache.n; i++) {
        const struct obd_chunk *c = cache.chunk[i];

        if (c->users > 0)
            continue;
        if (found == cache.n || c->used < cache.chunk[found]->used)
            found = i;
    }
    return found;
}

/* Make room for more bytes, unless the one that has to go is as large: that
 * one is returned, for its buffer.
 */
static struct obd_chunk *
make_room(size_t more)
{
    while (cache.memory + more > cache.budget) {
        size_t i = oldest();

        if (i == cache.n)
            return NULL;
        struct obd_chunk *c = cache.chunk[i];

        if (c->capacity == more && cache.memory <= cache.budget)
            return c;
        drop(i);
    }
    return NULL;
}

static struct obd_chunk *
add(size_t capacity)
{
    if (cache.n == cache.capacity) {
        size_t more = cache.capacity ? cache.capacity * 2 : 64;
        struct obd_chunk **chunk = realloc(cache.chunk,
                                           more * sizeof(*chunk));

        if (chunk == NULL)
            return NULL;
        cache.chunk = chunk;
        cache.capacity = more;
    }
    struct obd_chunk *c = calloc(1, sizeof *c);
    uint8_t *data = malloc(capacity);

    if (c == NULL || data == NULL) {
        free(c);
        free(data);
        return NULL;
    }
    c->data = data;
    c->capacity = capacity;
    cache.memory += capacity;
    cache.chunk[cache.n++] = c;
    return c;
}

struct obd_chunk *
obd_chunk_claim(uint64_t owner, uint64_t number, size_t size, bool *fill)
{
    size_t capacity = (size + STEP - 1) / STEP * STEP;
    struct obd_chunk *c;

    *fill = false;
    pthread_mutex_lock(&cache.lock);
    while ((c = look_up(owner, number)) != NULL && !c->ready)
        pthread_cond_wait(&cache.settled, &cache.lock);
    if (c == NULL) {
        c = make_room(capacity);
        if (c == NULL)
            c = add(capacity);
        if (c != NULL) {
            c->owner = owner;
            c->number = number;
            c->size = size;
            c->ready = false;
            *fill = true;
        }
    }
    if (c != NULL)
        hold(c);
    pthread_mutex_unlock(&cache.lock);
    return c;
}

void
obd_chunk_settle(struct obd_chunk *c, bool good)
{
    pthread_mutex_lock(&cache.lock);
    if (good) {
        c->ready = true;
    } else {
        size_t i = 0;

        while (cache.chunk[i] != c)
            i++;
        drop(i);
    }
    pthread_cond_broadcast(&cache.settled);
    pthread_mutex_unlock(&cache.lock);
}

/* More than the budget is kept only while it is held. */
static void
keep_to_budget(void)
{
    while (cache.memory > cache.budget) {
        size_t i = oldest();

        if (i == cache.n)
            return;
        drop(i);
    }
}

void
obd_chunk_give(struct obd_chunk *c)
{
    pthread_mutex_lock(&cache.lock);
    c->users--;
    keep_to_budget();
    pthread_mutex_unlock(&cache.lock);
}

void
obd_chunks_forget(uint64_t owner)
{
    pthread_mutex_lock(&cache.lock);
    for (size_t i = cache.n; i-- > 0;)
        if (cache.chunk[i]->owner == owner)
            drop(i);
    if (cache.n == 0) {
        free(cache.chunk);
        cache.chunk = NULL;
        cache.capacity = 0;
    }
    pthread_mutex_unlock(&cache.lock);
}

void
obd_chunks_limit(size_t budget)
{
    pthread_mutex_lock(&cache.lock);
    cache.budget = budget;
    keep_to_budget();
    pthread_mutex_unlock(&cache.lock);
}

size_t
obd_chunks_memory(size_t *budget)
{
    pthread_mutex_lock(&cache.lock);
    size_t memory = cache.memory;

    *budget = cache.budget;
    pthread_mutex_unlock(&cache.lock);
    return memory;
}
