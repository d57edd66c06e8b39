/* SPDX-License-Identifier: Apache-2.0 */
/* stacks - random stacks of layers, and the flat disk that each must equal. */

#ifndef STACKS_H
#define STACKS_H

#include "blob.h"
#include "check.h"
#include "device.h"

#define STACK_LAYERS 6

struct stack {
    uint8_t *flat;              /* what the device must read as */
    uint8_t *owner;             /* per sector: layer + 1, 0 for none */
    uint8_t *zero;              /* per sector: nothing is stored */
    uint64_t size;              /* bytes */
    size_t nlayers;
    int fds[STACK_LAYERS];
    uint64_t file_size[STACK_LAYERS];
    struct obd_blob *blobs[STACK_LAYERS];
    struct obd_segmap *map;
    struct obd_device *device;
};

/* Layers of all kinds over a disk of some hundred KiB, not whole sectors. */
extern void stack_make(struct stack *s, struct chance *r);

extern void stack_free(struct stack *s);

#endif
