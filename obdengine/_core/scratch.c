/* SPDX-License-Identifier: Apache-2.0 */
/* scratch - see scratch.h.
 *
 * Each slot holds a free scratch or NULL.  A thread looks first in the slot
 * that it used last, so it mostly meets its own.
 */

#include "scratch.h"

#include <stdatomic.h>
#include <stdlib.h>

static _Atomic(struct obd_scratch *) slots[OBD_SCRATCHES];
static _Atomic unsigned next_home;
static _Thread_local unsigned home;     /* slot + 1, 0 before the first use */

static struct obd_scratch *
make(void)
{
    struct obd_scratch *s = malloc(sizeof *s);

    if (s == NULL)
        return NULL;
    s->codec = (struct obd_codec){ 0 };
    s->block = malloc(OBD_BLOCK_MAX);
    if (s->block == NULL) {
        free(s);
        return NULL;
    }
    return s;
}

static void
drop(struct obd_scratch *s)
{
    obd_codec_clear(&s->codec);
    free(s->block);
    free(s);
}

struct obd_scratch *
obd_scratch_take(void)
{
    if (home == 0)
        home = 1 + atomic_fetch_add(&next_home, 1) % OBD_SCRATCHES;
    for (unsigned i = 0; i < OBD_SCRATCHES; i++) {
        unsigned slot = (home - 1 + i) % OBD_SCRATCHES;
        struct obd_scratch *s = NULL;

        if (atomic_load_explicit(&slots[slot], memory_order_relaxed) != NULL)
            s = atomic_exchange(&slots[slot], NULL);
        if (s != NULL)
            return s;
    }
    return make();
}

void
obd_scratch_give(struct obd_scratch *s)
{
    for (unsigned i = 0; i < OBD_SCRATCHES; i++) {
        unsigned slot = (home - 1 + i) % OBD_SCRATCHES;
        struct obd_scratch *none = NULL;

        if (atomic_compare_exchange_strong(&slots[slot], &none, s))
            return;
    }
    drop(s);
}

void
obd_scratch_drain(void)
{
    for (unsigned i = 0; i < OBD_SCRATCHES; i++) {
        struct obd_scratch *s = atomic_exchange(&slots[i], NULL);

        if (s != NULL)
            drop(s);
    }
}
