/* SPDX-License-Identifier: Apache-2.0 */
/* filter - requests that need no Python, past it: a filter for nbdkit.
 *
 * It stands before the Python plugin with obd.py, which offers it the disk of
 * each connection (obd_filter_offer).  What the core does by itself is done
 * here; what it cannot do, or what fails, goes on to Python, which does it
 * again: fetches what is absent, and says what is wrong.  It knows nothing of
 * images, and passes everything on where nobody offers anything.
 */

#define NBDKIT_API_VERSION 2

#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <nbdkit-filter.h>

#include "native.h"

#define NAME "obd"

/* What one reply to "block status" may hold: as in obd.py. */
#define EXTENTS_PER_REPLY 4096
#define EXTENTS_AT_ONCE 64

/* Whether only the plugin is behind us. */
static bool is_last;

/* What the plugin's open() has put here, in the thread that called it. */
static _Thread_local const struct obd_native *offered;

struct connection {
    struct obd_native native;   /* port NULL: there is none */
};

__attribute__((visibility("default")))
extern int obd_filter_offer(const struct obd_native *native);

/* Python calls this while it opens an export: 1 if that is of any use. */
int
obd_filter_offer(const struct obd_native *native)
{
    if (!is_last || native->version != OBD_NATIVE_VERSION)
        return 0;
    offered = native;
    return 1;
}

/* ---- Where we stand ----
 *
 * Going past a filter behind us, such as cow, would be wrong, and nbdkit does
 * not say which there are.  Its command line does, in their order.
 */

static char *
read_command_line(size_t *size)
{
    int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    char *all = NULL;
    ssize_t r = 1;

    *size = 0;
    while (fd >= 0 && r > 0) {
        char *more = realloc(all, *size + 4096 + 1);

        if (more == NULL)
            break;
        all = more;
        r = read(fd, all + *size, 4096);
        *size += r > 0 ? (size_t)r : 0;
        all[*size] = '\0';
    }
    if (fd >= 0)
        close(fd);
    return all;
}

static bool
names_us(const char *filter)
{
    const char *base = strrchr(filter, '/');

    return base != NULL && strstr(base, "nbdkit_filter") != NULL;
}

static bool
find_place(void)
{
    size_t size;
    char *all = read_command_line(&size), *next;
    bool last = false;

    for (char *word = all; word && word < all + size; word = next) {
        next = word + strlen(word) + 1;
        if (strncmp(word, "--filter=", 9) == 0)
            last = names_us(word + 9);
        else if (strcmp(word, "--filter") == 0 && next < all + size)
            last = names_us(next);
    }
    free(all);
    return last;
}

static int
filter_get_ready(int thread_model)
{
    (void)thread_model;
    is_last = find_place();
    if (!is_last)
        nbdkit_debug("another filter comes after this one: it does nothing");
    return 0;
}

/* ---- Connections ---- */

static void *
filter_open(nbdkit_next_open *next, nbdkit_context *context, int readonly,
            const char *exportname, int is_tls)
{
    struct connection *c = calloc(1, sizeof *c);

    (void)is_tls;
    if (c == NULL) {
        nbdkit_error("no memory for a connection");
        return NULL;
    }
    offered = NULL;
    if (next(context, readonly, exportname) == -1) {
        free(c);
        return NULL;
    }
    if (offered != NULL) {
        c->native = *offered;
        c->native.hold(c->native.port);
        offered = NULL;
    }
    return c;
}

static void
filter_close(void *handle)
{
    struct connection *c = handle;

    if (c->native.port != NULL)
        c->native.drop(c->native.port);
    free(c);
}

/* ---- Requests ---- */

static int
filter_pread(nbdkit_next *next, void *handle, void *buf, uint32_t count,
             uint64_t offset, uint32_t flags, int *err)
{
    const struct obd_native *n = &((struct connection *)handle)->native;
    struct obd_fault fault;

    if (n->port && n->read(n->port, offset, buf, count, &fault) == OBD_OK)
        return 0;
    return next->pread(next, buf, count, offset, flags, err);
}

/* What changed the disk with this status: is that all, with FUA too? */
static bool
is_done(const struct obd_native *n, int status, uint32_t flags)
{
    struct obd_fault fault;

    if (status == OBD_OK && (flags & NBDKIT_FLAG_FUA))
        status = n->flush(n->port, &fault);
    return status == OBD_OK;
}

static int
filter_pwrite(nbdkit_next *next, void *handle, const void *buf,
              uint32_t count, uint64_t offset, uint32_t flags, int *err)
{
    const struct obd_native *n = &((struct connection *)handle)->native;
    struct obd_fault fault;

    if (n->port
        && is_done(n, n->write(n->port, offset, buf, count, &fault), flags))
        return 0;
    return next->pwrite(next, buf, count, offset, flags, err);
}

static int
filter_flush(nbdkit_next *next, void *handle, uint32_t flags, int *err)
{
    const struct obd_native *n = &((struct connection *)handle)->native;
    struct obd_fault fault;

    if (n->port && n->flush(n->port, &fault) == OBD_OK)
        return 0;
    return next->flush(next, flags, err);
}

static int
filter_trim(nbdkit_next *next, void *handle, uint32_t count, uint64_t offset,
            uint32_t flags, int *err)
{
    const struct obd_native *n = &((struct connection *)handle)->native;
    struct obd_fault fault;

    if (n->port
        && is_done(n, n->discard(n->port, offset, count, &fault), flags))
        return 0;
    return next->trim(next, count, offset, flags, err);
}

static int
filter_zero(nbdkit_next *next, void *handle, uint32_t count, uint64_t offset,
            uint32_t flags, int *err)
{
    const struct obd_native *n = &((struct connection *)handle)->native;
    struct obd_fault fault;

    if (n->port
        && is_done(n, n->zero(n->port, offset, count, &fault), flags))
        return 0;
    return next->zero(next, count, offset, flags, err);
}

static int
filter_cache(nbdkit_next *next, void *handle, uint32_t count,
             uint64_t offset, uint32_t flags, int *err)
{
    const struct obd_native *n = &((struct connection *)handle)->native;
    struct obd_fault fault;

    if (n->port && n->present(n->port, offset, count, &fault) == OBD_OK)
        return 0;
    return next->cache(next, count, offset, flags, err);
}

/* Where adding extents stands. */
struct adding {
    struct nbdkit_extents *extents;
    uint64_t offset;            /* of what comes next */
    uint64_t end;
    size_t all;                 /* extents so far */
    uint32_t type;              /* of the last one */
    bool is_one;                /* an extent of another type is the end */
};

/* Add what one look gives: false when it gives nothing. */
static bool
add_some(const struct obd_native *n, struct adding *a)
{
    struct obd_extent e[EXTENTS_AT_ONCE];
    struct obd_fault fault;
    size_t found;

    if (n->extents(n->port, a->offset, a->end - a->offset, e,
                   EXTENTS_AT_ONCE, &found, &fault) != OBD_OK)
        return false;
    for (size_t i = 0; i < found; i++) {
        uint32_t type = e[i].flags & OBD_EXTENT_ZERO
                        ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0;

        /* nbdkit joins what is of one type, whatever layers it is of. */
        if (a->is_one && a->all > 0 && type != a->type) {
            a->end = a->offset;
            break;
        }
        if (nbdkit_add_extent(a->extents, e[i].offset, e[i].size, type) == -1)
            return false;
        a->type = type;
        a->offset = e[i].offset + e[i].size;
        a->all++;
    }
    return found > 0;
}

static int
filter_extents(nbdkit_next *next, void *handle, uint32_t count,
               uint64_t offset, uint32_t flags,
               struct nbdkit_extents *extents, int *err)
{
    const struct obd_native *n = &((struct connection *)handle)->native;
    struct adding a = { .extents = extents, .offset = offset,
                        .end = offset + count,
                        .is_one = flags & NBDKIT_FLAG_REQ_ONE };

    while (n->port && a.offset < a.end && a.all < EXTENTS_PER_REPLY
           && add_some(n, &a))
        continue;
    /* Once something was added Python cannot begin again. */
    if (a.all > 0)
        return 0;
    return next->extents(next, count, offset, flags, extents, err);
}

static struct nbdkit_filter filter = {
    .name = NAME,
    .longname = "obdengine's way past Python",
    .get_ready = filter_get_ready,
    .open = filter_open,
    .close = filter_close,
    .pread = filter_pread,
    .pwrite = filter_pwrite,
    .flush = filter_flush,
    .trim = filter_trim,
    .zero = filter_zero,
    .cache = filter_cache,
    .extents = filter_extents,
};

NBDKIT_REGISTER_FILTER(filter)
