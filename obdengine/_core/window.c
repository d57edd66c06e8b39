/* SPDX-License-Identifier: Apache-2.0 */
/* window - see window.h. */

#include "window.h"

#include <sys/mman.h>

#include "bytes.h"

#define PAGE_SHIFT 12

/* Pages that the kernel is asked about at once. */
#define PAGES 256

/* The file as memory; NULL when it cannot be had so. */
static const uint8_t *
mapped(struct obd_window *w, int fd, uint64_t size)
{
    uint8_t *found = atomic_load(&w->file);

    if (OBD_LIKELY(found != NULL))
        return found != MAP_FAILED ? found : NULL;
    uint8_t *made = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, 0);

    if (!atomic_compare_exchange_strong(&w->file, &found, made)) {
        if (made != MAP_FAILED)
            munmap(made, (size_t)size);
        made = found;
    }
    return made != MAP_FAILED ? made : NULL;
}

const uint8_t *
obd_window_find(struct obd_window *w, int fd, uint64_t file_size, uint64_t at,
                uint64_t *size)
{
    unsigned char cached[PAGES];
    uint64_t first = at >> PAGE_SHIFT, pages, n = 0;
    const uint8_t *file = *size > 0 ? mapped(w, fd, file_size) : NULL;

    if (file == NULL)
        return NULL;
    pages = ((at + *size - 1) >> PAGE_SHIFT) - first + 1;
    pages = obd_min(pages, PAGES);
    if (mincore((void *)(file + (first << PAGE_SHIFT)),
                (size_t)(pages << PAGE_SHIFT), cached) != 0)
        return NULL;
    while (n < pages && (cached[n] & 1))
        n++;
    if (n == 0)
        return NULL;
    *size = obd_min(*size, ((first + n) << PAGE_SHIFT) - at);
    return file + at;
}

void
obd_window_end(struct obd_window *w, uint64_t file_size)
{
    uint8_t *file = atomic_load(&w->file);

    if (file != NULL && file != MAP_FAILED)
        munmap(file, (size_t)file_size);
}
