/* SPDX-License-Identifier: Apache-2.0 */
/* gather - see gather.h. */

#include "gather.h"

#include "bytes.h"

#define EXTENTS 32

/* A window costs a look into the page cache and a place in the list; copying
 * 16 KiB costs about as much.
 */
#define WINDOW_LEAST (UINT64_C(16) << 10)

static bool
is_hole(const struct obd_extent *e)
{
    return (e->flags & OBD_EXTENT_ZERO) && e->size >= OBD_ZEROS_LEAST;
}

/* Windows from offset on, of what one layer has: whether there is any. */
static bool
take_windows(const struct obd_device *d, uint64_t offset, uint64_t end,
             struct obd_gather *g)
{
    while (offset < end && g->n < g->most) {
        uint64_t size = end - offset;
        const uint8_t *window = NULL;

        if (size >= WINDOW_LEAST)
            window = obd_device_window(d, offset, &size);
        if (window == NULL || size < WINDOW_LEAST)
            break;
        g->windows[g->n++] = (struct iovec){ (void *)window, (size_t)size };
        g->size += size;
        offset += size;
    }
    g->kind = g->n > 0 ? OBD_GATHERED_WINDOWS : OBD_GATHERED_BYTES;
    return g->n > 0;
}

/* How many zeros the first of n extents begin with. */
static uint64_t
zeros(const struct obd_extent *e, size_t n)
{
    uint64_t size = 0;

    for (size_t i = 0; i < n && (e[i].flags & OBD_EXTENT_ZERO); i++)
        size += e[i].size;
    return size;
}

/* How many bytes come before what is better told in another way, or must be
 * fetched first: a hole, a window worth its name.
 */
static uint64_t
bytes(const struct obd_device *d, const struct obd_extent *e, size_t n)
{
    uint64_t size = e[0].size;

    for (size_t i = 1; i < n && !is_hole(&e[i]); i++) {
        uint64_t part = e[i].size;

        if ((e[i].flags ^ e[0].flags) & OBD_EXTENT_PRESENT)
            break;
        if (part >= WINDOW_LEAST
            && obd_device_window(d, e[i].offset, &part) != NULL
            && part >= WINDOW_LEAST)
            break;
        size += e[i].size;
    }
    return size;
}

int
obd_gather(const struct obd_device *d, uint64_t offset, uint64_t size,
           struct obd_gather *g, struct obd_fault *fault)
{
    struct obd_extent found[EXTENTS];
    size_t n;
    int status = obd_device_extents(d, offset, size, found, EXTENTS, &n,
                                    fault);

    g->size = g->n = 0;
    g->kind = OBD_GATHERED_BYTES;
    if (status != OBD_OK || n == 0)
        return status;
    if (zeros(found, n) >= OBD_ZEROS_LEAST) {
        g->kind = OBD_GATHERED_ZEROS;
        g->size = zeros(found, n);
        return OBD_OK;
    }
    if (take_windows(d, offset, offset + found[0].size, g)
        || g->capacity == 0)
        return OBD_OK;
    g->size = obd_min(bytes(d, found, n), g->capacity);
    return obd_device_read(d, offset, g->buf, (size_t)g->size, fault);
}
