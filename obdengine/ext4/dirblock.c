/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dir.h"

#define HEAD 8u                 /* of an entry: inode, length, name, type */

/* -- one entry; bytes need not be aligned for the compiler's sake */

static uint32_t
inode_at(const uint8_t *e)
{
    uint32_t ino;

    memcpy(&ino, e, sizeof ino);
    return ino;
}

static size_t
length_at(const uint8_t *e)
{
    uint16_t length;

    memcpy(&length, e + 4, sizeof length);
    return length;
}

static void
set_length(uint8_t *e, size_t length)
{
    uint16_t word = (uint16_t)length;

    memcpy(e + 4, &word, sizeof word);
}

static void
put_entry(uint8_t *e, const struct obd_name *name, size_t length)
{
    memcpy(e, &name->ino, 4);
    set_length(e, length);
    e[6] = name->length;
    e[7] = name->type;
    memcpy(e + HEAD, name->name, name->length);
}

/* -- blocks */

errcode_t
obd_dir_block(struct obd_dir *d, uint32_t i, uint8_t **bytes)
{
    struct obd_dir_block *b = &d->blocks[i];
    errcode_t error;

    if (!b->bytes) {
        uint8_t *fresh = malloc(d->f->fs->blocksize);

        if (!fresh)
            return ENOMEM;
        error = ext2fs_read_dir_block4(d->f->fs, b->physical, fresh, 0,
                                       d->ino);
        if (error) {
            free(fresh);
            return error;
        }
        b->bytes = fresh;
    }
    *bytes = b->bytes;
    return 0;
}

errcode_t
obd_dir_append(struct obd_dir *d, uint32_t *i)
{
    struct obd_dir_block b = { 0, NULL, 1 };
    uint64_t count;
    errcode_t error;

    if (d->n == d->room) {
        uint32_t room = d->room ? d->room * 2 : 4;
        struct obd_dir_block *more = realloc(d->blocks, room * sizeof *more);

        if (!more)
            return ENOMEM;
        d->blocks = more;
        d->room = room;
    }
    error = obd_ext4_take_blocks(d->f, 1, 1, &b.physical, &count);
    if (error)
        return error;
    b.bytes = malloc(d->f->fs->blocksize);
    if (!b.bytes)
        return ENOMEM;
    obd_dir_clear(d, b.bytes);
    *i = d->n;
    d->blocks[d->n++] = b;
    return 0;
}

void
obd_dir_clear(const struct obd_dir *d, uint8_t *bytes)
{
    size_t size = d->f->fs->blocksize;

    memset(bytes, 0, size);
    set_length(bytes, d->usable);
    if (d->usable < size)
        ext2fs_initialize_dirent_tail(d->f->fs,
                                      EXT2_DIRENT_TAIL(bytes, size));
}

int
obd_dir_is_sound(const struct obd_dir *d, const uint8_t *bytes)
{
    size_t at = 0, length;

    for (; at + HEAD <= d->usable; at += length) {
        length = length_at(bytes + at);
        if (length < HEAD || length % 4 || length > d->usable - at
            || (inode_at(bytes + at) && HEAD + bytes[at + 6] > length))
            return 0;
    }
    return at == d->usable;
}

int
obd_dir_remove(const struct obd_dir *d, uint8_t *bytes,
               const struct obd_name *name)
{
    uint8_t *before = NULL, *e, *end = bytes + d->usable;

    for (e = bytes; e < end; before = e, e += length_at(e)) {
        size_t length = length_at(e);

        if (!inode_at(e) || e[6] != name->length
            || memcmp(e + HEAD, name->name, name->length) != 0)
            continue;
        memset(e, 0, length);
        if (before)
            set_length(before, length_at(before) + length);
        else
            set_length(e, length);
        return 1;
    }
    return 0;
}

int
obd_dir_insert(const struct obd_dir *d, uint8_t *bytes,
               const struct obd_name *name)
{
    size_t need = obd_dir_need(name);
    uint8_t *e, *end = bytes + d->usable;

    for (e = bytes; e < end; e += length_at(e)) {
        size_t length = length_at(e);
        size_t used = inode_at(e) ? (HEAD + e[6] + 3u) & ~(size_t)3 : 0;

        if (length < used + need)
            continue;
        if (used) {
            set_length(e, used);
            e += used;
        }
        put_entry(e, name, length - used);
        return 1;
    }
    return 0;
}

void
obd_dir_put_dots(const struct obd_dir *d, uint8_t *bytes)
{
    int typed = ext2fs_has_feature_filetype(d->f->fs->super);
    uint8_t type = typed ? EXT2_FT_DIR : 0;
    struct obd_name dot = { d->ino, 0, 0, type, 1, (const uint8_t *)"." };
    struct obd_name dots = { d->parent, 0, 0, type, 2, (const uint8_t *)".." };

    put_entry(bytes, &dot, 12);
    put_entry(bytes + 12, &dots, d->usable - 12);
}

static int
is_dots(const uint8_t *e)
{
    return (e[6] == 1 && e[8] == '.')
           || (e[6] == 2 && e[8] == '.' && e[9] == '.');
}

errcode_t
obd_dir_names(const struct obd_dir *d, const uint8_t *bytes,
              struct obd_name **all, size_t *n, size_t *room)
{
    const uint8_t *e, *end = bytes + d->usable;

    for (e = bytes; e < end; e += length_at(e)) {
        if (!inode_at(e) || is_dots(e))
            continue;
        if (*n == *room) {
            size_t more = *room ? *room * 2 : 256;
            struct obd_name *at = realloc(*all, more * sizeof *at);

            if (!at)
                return ENOMEM;
            *all = at;
            *room = more;
        }
        (*all)[(*n)++] = (struct obd_name){
            .ino = inode_at(e), .type = e[7], .length = e[6],
            .name = e + HEAD
        };
    }
    return 0;
}
