/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cache.h"
#include "ext4.h"

#define IN_INODE 4              /* extents that an inode itself has room for */
#define MAX_RUN 32768
#define MAX_LOGICAL ((uint64_t)UINT32_MAX)

/* -- which blocks a file has */

static void
put_extent(struct ext3_extent *e, const struct obd_run *r)
{
    e->ee_block = (uint32_t)r->logical;
    e->ee_len = (uint16_t)r->count;
    e->ee_start = (uint32_t)r->physical;
    e->ee_start_hi = (uint16_t)(r->physical >> 32);
}

static struct ext3_extent *
put_header(struct ext2_inode_large *inode, size_t entries)
{
    struct ext3_extent_header *h = (void *)inode->i_block;

    inode->i_flags |= EXT4_EXTENTS_FL;
    h->eh_magic = EXT3_EXT_MAGIC;
    h->eh_entries = (uint16_t)entries;
    h->eh_max = IN_INODE;
    return (struct ext3_extent *)(h + 1);
}

/* Add runs to the tree, whose root is still empty. */
static errcode_t
insert_extents(struct obd_ext4 *f, uint32_t ino,
               struct ext2_inode_large *inode, const struct obd_run *runs,
               size_t n)
{
    ext2_extent_handle_t handle;
    size_t i;
    errcode_t error = ext2fs_extent_open2(f->fs, ino,
                                          (struct ext2_inode *)inode, &handle);

    if (error)
        return error;
    for (i = 0; i < n && !error; i++) {
        struct ext2fs_extent e = { runs[i].physical, runs[i].logical, 0, 0 };
        uint64_t left;

        for (left = runs[i].count; left && !error; left -= e.e_len) {
            e.e_len = (uint32_t)(left < MAX_RUN ? left : MAX_RUN);
            error = ext2fs_extent_insert(handle, EXT2_EXTENT_INSERT_AFTER,
                                         &e);
            if (!error)
                error = ext2fs_extent_fix_parents(handle);
            e.e_pblk += e.e_len;
            e.e_lblk += e.e_len;
        }
    }
    ext2fs_extent_free(handle);
    return error;
}

/* As ext2 and ext3 do it. */
static errcode_t
insert_blocks(struct obd_ext4 *f, uint32_t ino,
              struct ext2_inode_large *inode, const struct obd_run *runs,
              size_t n)
{
    errcode_t error = 0;
    uint64_t k;
    size_t i;

    for (i = 0; i < n; i++) {
        for (k = 0; k < runs[i].count && !error; k++) {
            blk64_t block = runs[i].physical + k;

            error = ext2fs_bmap2(f->fs, ino, (struct ext2_inode *)inode, NULL,
                                 BMAP_SET | BMAP_ALLOC, runs[i].logical + k,
                                 NULL, &block);
        }
    }
    return error;
}

errcode_t
obd_ext4_map(struct obd_ext4 *f, uint32_t ino, struct ext2_inode_large *inode,
             const struct obd_run *runs, size_t n)
{
    struct ext2_inode *small = (struct ext2_inode *)inode;
    int extents = ext2fs_has_feature_extents(f->fs->super);
    int fits = n <= IN_INODE;
    struct ext3_extent *e;
    uint64_t blocks = 0;
    errcode_t error;
    size_t i;

    for (i = 0; i < n; i++) {
        blocks += runs[i].count;
        fits = fits && runs[i].count <= MAX_RUN;
    }
    /* A new directory may have a block of extended attributes already. */
    error = ext2fs_iblk_add_blocks(f->fs, small, blocks);
    if (error)
        return error;
    if (extents) {
        e = put_header(inode, fits ? n : 0);
        for (i = 0; i < n && fits; i++)
            put_extent(&e[i], &runs[i]);
    }
    error = obd_ext4_write_inode(f, ino, inode);
    if (error || (extents && fits))
        return error;
    error = extents ? insert_extents(f, ino, inode, runs, n)
                    : insert_blocks(f, ino, inode, runs, n);
    return error ? error : obd_ext4_write_inode(f, ino, inode);
}

/* -- data on its way */

errcode_t
obd_ext4_flush_data(struct obd_ext4 *f)
{
    size_t unit = f->fs->blocksize;
    int error;

    if (!f->data_blocks)
        return 0;
    error = obd_cache_write_through(f->cache, f->data_block * unit, f->data,
                                    f->data_blocks * unit);
    f->data_blocks = 0;
    return error;
}

static errcode_t
send(struct obd_ext4 *f, uint64_t block, const uint8_t *data, uint64_t count)
{
    size_t unit = f->fs->blocksize;
    errcode_t error;

    if (f->data_blocks && (f->data_block + f->data_blocks != block
                           || f->data_blocks + count > f->data_room)) {
        error = obd_ext4_flush_data(f);
        if (error)
            return error;
    }
    if (count > f->data_room / 2)
        return obd_cache_write_through(f->cache, block * unit, data,
                                       count * unit);
    if (!f->data_blocks)
        f->data_block = block;
    memcpy(f->data + f->data_blocks * unit, data, count * unit);
    f->data_blocks += (uint32_t)count;
    return 0;
}

/* Give blocks to a part of the file; data NULL: they read as zeros. */
static errcode_t
put_blocks(struct obd_ext4 *f, uint64_t logical, const uint8_t *data,
           uint64_t count)
{
    if (logical + count > MAX_LOGICAL)
        return EFBIG;
    while (count) {
        uint64_t first, got;
        errcode_t error = obd_ext4_take_blocks(f, count, f->expected, &first,
                                               &got);

        if (!error)
            error = obd_runs_add(&f->runs, logical, first, got, 0);
        if (!error && data)
            error = send(f, first, data, got);
        else if (!error)
            error = obd_cache_discard(f->cache, first * f->fs->blocksize,
                                      got * f->fs->blocksize);
        if (error)
            return error;
        if (data)
            data += got * f->fs->blocksize;
        f->expected -= got < f->expected ? got : f->expected;
        logical += got;
        count -= got;
    }
    return 0;
}

static int
is_zero(const uint8_t *p, size_t n)
{
    return !p[0] && memcmp(p, p + 1, n - 1) == 0;
}

static errcode_t
put_tail(struct obd_ext4 *f)
{
    if (!f->tail_held)
        return 0;
    f->tail_held = 0;
    if (is_zero(f->tail, f->fs->blocksize))
        return 0;
    return put_blocks(f, f->tail_block, f->tail, 1);
}

/* Whole blocks: those of zeros become holes. */
static errcode_t
put_whole(struct obd_ext4 *f, uint64_t logical, const uint8_t *data,
          uint64_t count)
{
    size_t unit = f->fs->blocksize;
    uint64_t start = 0, end;
    errcode_t error;

    while (start < count) {
        if (is_zero(data + start * unit, unit)) {
            f->expected -= f->expected ? 1 : 0;
            start++;
            continue;
        }
        end = start + 1;
        while (end < count && !is_zero(data + end * unit, unit))
            end++;
        error = put_blocks(f, logical + start, data + start * unit,
                           end - start);
        if (error)
            return error;
        start = end;
    }
    return 0;
}

static errcode_t
put_part(struct obd_ext4 *f, uint64_t logical, size_t at, const uint8_t *data,
         size_t size)
{
    errcode_t error;

    if (!f->tail_held || f->tail_block != logical) {
        error = put_tail(f);
        if (error)
            return error;
        memset(f->tail, 0, f->fs->blocksize);
        f->tail_block = logical;
        f->tail_held = 1;
    }
    memcpy(f->tail + at, data, size);
    return 0;
}

/* -- a new file */

errcode_t
obd_ext4_file_begin(struct obd_ext4 *f, const struct obd_attributes *a,
                    uint32_t *ino)
{
    errcode_t error;

    if (!f->tail)
        f->tail = malloc(f->fs->blocksize);
    if (!f->tail)
        return ENOMEM;
    error = obd_ext4_take_inode(f, 0, ino);
    if (error)
        return error;
    f->file = *ino;
    f->about = *a;
    f->runs.n = 0;
    f->tail_held = 0;
    f->expected = (a->size + f->fs->blocksize - 1) / f->fs->blocksize;
    return 0;
}

errcode_t
obd_ext4_file_data(struct obd_ext4 *f, uint64_t offset, const uint8_t *data,
                   size_t size)
{
    size_t unit = f->fs->blocksize;
    errcode_t error = 0;

    if (!data)
        return put_blocks(f, offset / unit, NULL, (size + unit - 1) / unit);
    while (size && !error) {
        size_t at = offset % unit, part = unit - at < size ? unit - at : size;

        if (part == unit) {
            part = size - size % unit;
            error = put_tail(f);
            if (!error)
                error = put_whole(f, offset / unit, data, part / unit);
        } else {
            error = put_part(f, offset / unit, at, data, part);
        }
        offset += part;
        data += part;
        size -= part;
    }
    return error;
}

errcode_t
obd_ext4_file_end(struct obd_ext4 *f, uint64_t size)
{
    union obd_inode u;
    uint32_t ino = f->file;
    errcode_t error = put_tail(f);

    if (error)
        return error;
    if (size / f->fs->blocksize > MAX_LOGICAL)
        return EFBIG;
    obd_ext4_compose(f, &f->about, &u.large);
    error = ext2fs_inode_size_set(f->fs, (struct ext2_inode *)&u.large,
                                  (ext2_off64_t)size);
    f->file = 0;
    return error ? error
                 : obd_ext4_map(f, ino, &u.large, f->runs.at, f->runs.n);
}

errcode_t
obd_ext4_file(struct obd_ext4 *f, const struct obd_attributes *a,
              const uint8_t *data, size_t size, uint32_t *ino)
{
    errcode_t error = obd_ext4_file_begin(f, a, ino);

    if (!error)
        error = obd_ext4_file_data(f, 0, data, size);
    return error ? error : obd_ext4_file_end(f, size);
}

/* -- reading */

static errcode_t
extents_of(struct obd_ext4 *f, uint32_t ino, struct ext2_inode_large *inode,
           uint64_t logical, struct obd_runs *found, size_t room)
{
    ext2_extent_handle_t handle;
    struct ext2fs_extent e;
    errcode_t error = ext2fs_extent_open2(f->fs, ino,
                                          (struct ext2_inode *)inode, &handle);
    int op = EXT2_EXTENT_ROOT;

    if (error)
        return error;
    while (found->n < room) {
        error = ext2fs_extent_get(handle, op, &e);
        op = EXT2_EXTENT_NEXT;
        if (error)
            break;
        if (!(e.e_flags & EXT2_EXTENT_FLAGS_LEAF)
            || e.e_lblk + e.e_len <= logical)
            continue;
        error = obd_runs_add(found, e.e_lblk, e.e_pblk, e.e_len,
                             (e.e_flags & EXT2_EXTENT_FLAGS_UNINIT) != 0);
        if (error)
            break;
    }
    ext2fs_extent_free(handle);
    return error == EXT2_ET_EXTENT_NO_NEXT || error == EXT2_ET_NO_CURRENT_NODE
               ? 0 : error;
}

static errcode_t
blocks_of(struct obd_ext4 *f, uint32_t ino, struct ext2_inode_large *inode,
          uint64_t logical, struct obd_runs *found, size_t room)
{
    uint64_t unit = f->fs->blocksize;
    uint64_t end = (EXT2_I_SIZE(inode) + unit - 1) / unit;

    for (; logical < end && found->n < room; logical++) {
        blk64_t block = 0;
        errcode_t error = ext2fs_bmap2(f->fs, ino, (struct ext2_inode *)inode,
                                       NULL, 0, logical, NULL, &block);

        if (!error && block)
            error = obd_runs_add(found, logical, block, 1, 0);
        if (error)
            return error;
    }
    return 0;
}

errcode_t
obd_ext4_runs(struct obd_ext4 *f, uint32_t ino, uint64_t logical,
              struct obd_run *out, size_t room, size_t *n)
{
    struct obd_runs found = { NULL, 0, 0 };
    union obd_inode u;
    errcode_t error = obd_ext4_read_inode(f, ino, &u.large);

    *n = 0;
    if (error)
        return error;
    if (u.large.i_flags & EXT4_INLINE_DATA_FL)
        return EXT2_ET_INLINE_DATA_CANT_ITERATE;
    if (u.large.i_flags & EXT4_EXTENTS_FL)
        error = extents_of(f, ino, &u.large, logical, &found, room);
    else if (ext2fs_inode_has_valid_blocks2(f->fs, (void *)&u.large))
        error = blocks_of(f, ino, &u.large, logical, &found, room);
    if (!error && found.n) {
        memcpy(out, found.at, found.n * sizeof *out);
        *n = found.n;
    }
    free(found.at);
    return error;
}

errcode_t
obd_ext4_read(struct obd_ext4 *f, uint32_t ino, uint64_t offset, uint8_t *buf,
              size_t size, size_t *n)
{
    ext2_file_t file;
    unsigned got = 0;
    errcode_t error = ext2fs_file_open(f->fs, ino, 0, &file);

    *n = 0;
    if (error)
        return error;
    error = ext2fs_file_llseek(file, offset, EXT2_SEEK_SET, NULL);
    if (!error && size > UINT32_MAX / 2)
        size = UINT32_MAX / 2;
    if (!error)
        error = ext2fs_file_read(file, buf, (unsigned)size, &got);
    *n = got;
    ext2fs_file_close(file);
    return error;
}
