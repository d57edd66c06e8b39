/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ext4.h"

struct packed {
    uint8_t *bytes;
    size_t n;
    size_t room;
    errcode_t error;
};

static void
append(struct packed *p, const void *bytes, size_t n)
{
    if (p->error)
        return;
    if (n > p->room - p->n) {
        size_t room = (p->n + n) * 2 + 256;
        uint8_t *more = realloc(p->bytes, room);

        if (!more) {
            p->error = ENOMEM;
            return;
        }
        p->bytes = more;
        p->room = room;
    }
    if (n)
        memcpy(p->bytes + p->n, bytes, n);
    p->n += n;
}

static int
pack_one(char *name, char *value, size_t size, void *data)
{
    struct packed *p = data;
    size_t length = strlen(name);
    uint32_t word = (uint32_t)size;
    uint8_t byte = (uint8_t)length;

    if (length > 255)
        return 0;
    append(p, &byte, 1);
    append(p, name, length);
    append(p, &word, sizeof word);
    append(p, value, size);
    return p->error ? XATTR_ABORT : 0;
}

static errcode_t
open_handle(struct obd_ext4 *f, uint32_t ino, struct ext2_xattr_handle **h)
{
    errcode_t error = ext2fs_xattrs_open(f->fs, ino, h);

    if (error)
        return error;
    error = ext2fs_xattrs_read(*h);
    if (error)
        ext2fs_xattrs_close(h);
    return error;
}

errcode_t
obd_ext4_xattrs(struct obd_ext4 *f, uint32_t ino, uint8_t **out, size_t *n)
{
    struct packed p = { NULL, 0, 0, 0 };
    struct ext2_xattr_handle *h;
    errcode_t error;

    *out = NULL;
    *n = 0;
    error = open_handle(f, ino, &h);
    if (error)
        return error == EXT2_ET_MISSING_EA_FEATURE ? 0 : error;
    error = ext2fs_xattrs_iterate(h, pack_one, &p);
    ext2fs_xattrs_close(&h);
    error = error ? error : p.error;
    if (error) {
        free(p.bytes);
        return error;
    }
    *out = p.bytes;
    *n = p.n;
    return 0;
}

/* -- setting */


static int
name_one(char *name, char *value, size_t size, void *data)
{
    struct packed *p = data;

    (void)value;
    (void)size;
    append(p, name, strlen(name) + 1);
    return p->error ? XATTR_ABORT : 0;
}

static errcode_t
remove_all(struct ext2_xattr_handle *h)
{
    struct packed names = { NULL, 0, 0, 0 };
    errcode_t error = ext2fs_xattrs_iterate(h, name_one, &names);
    size_t at = 0;

    error = error ? error : names.error;
    while (!error && at < names.n) {
        const char *name = (const char *)names.bytes + at;

        error = ext2fs_xattr_remove(h, name);
        at += strlen(name) + 1;
    }
    free(names.bytes);
    return error;
}

static errcode_t
set_one(struct ext2_xattr_handle *h, const uint8_t **at, const uint8_t *end)
{
    const uint8_t *p = *at;
    char name[256];
    uint32_t size;
    size_t length;

    if (end - p < 1 || (size_t)(end - p) < 5u + *p)
        return EINVAL;
    length = *p++;
    memcpy(name, p, length);
    name[length] = '\0';
    memcpy(&size, p + length, sizeof size);
    p += length + sizeof size;
    if ((size_t)(end - p) < size)
        return EINVAL;
    *at = p + size;
    return ext2fs_xattr_set(h, name, p, size);
}

errcode_t
obd_ext4_set_xattrs(struct obd_ext4 *f, uint32_t ino, const uint8_t *packed,
                    size_t n)
{
    const uint8_t *at = packed, *end = packed + n;
    struct ext2_xattr_handle *h;
    errcode_t error = open_handle(f, ino, &h);

    if (error == EXT2_ET_MISSING_EA_FEATURE && !n)
        return 0;
    if (error)
        return error;
    error = remove_all(h);
    while (!error && at < end)
        error = set_one(h, &at, end);
    if (!error)
        error = ext2fs_xattrs_write(h);
    ext2fs_xattrs_close(&h);
    return error;
}
