/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cache.h"
#include "ext4.h"

/* Places that are looked at for a file that fits in none so far. */
#define TRIES 64

/* ext4 has no longer extents. */
#define MAX_RUN 32768

errcode_t
obd_runs_add(struct obd_runs *r, uint64_t logical, uint64_t physical,
             uint64_t count, uint32_t unwritten)
{
    struct obd_run *last = r->n ? &r->at[r->n - 1] : NULL;

    if (last && last->logical + last->count == logical
        && last->physical + last->count == physical
        && last->unwritten == unwritten) {
        last->count += count;
        return 0;
    }
    if (r->n == r->room) {
        size_t room = r->room ? r->room * 2 : 16;
        struct obd_run *at = realloc(r->at, room * sizeof *at);

        if (!at)
            return ENOMEM;
        r->at = at;
        r->room = room;
    }
    r->at[r->n++] = (struct obd_run){ logical, physical, count, unwritten };
    return 0;
}

errcode_t
obd_ext4_take_inode(struct obd_ext4 *f, int directory, uint32_t *ino)
{
    uint32_t first = EXT2_FIRST_INO(f->fs->super);
    uint32_t end = f->fs->super->s_inodes_count;
    errcode_t error = ENOENT;

    if (f->next_inode <= end)
        error = ext2fs_find_first_zero_inode_bitmap2(f->fs->inode_map,
                                                     f->next_inode, end, ino);
    if (error == ENOENT)
        error = ext2fs_find_first_zero_inode_bitmap2(f->fs->inode_map, first,
                                                     end, ino);
    if (error)
        return error == ENOENT ? EXT2_ET_INODE_ALLOC_FAIL : error;
    f->next_inode = *ino + 1;
    ext2fs_inode_alloc_stats2(f->fs, *ino, +1, directory);
    return 0;
}

void
obd_ext4_give_inode(struct obd_ext4 *f, uint32_t ino, int directory)
{
    if (ino < f->next_inode)
        f->next_inode = ino;
    ext2fs_inode_alloc_stats2(f->fs, ino, -1, directory);
}

/* The first free run from block `from` on, as long as want if it is. */
static errcode_t
free_run(struct obd_ext4 *f, uint64_t from, uint64_t want, uint64_t *first,
         uint64_t *count)
{
    uint64_t last = ext2fs_blocks_count(f->fs->super) - 1, end;
    blk64_t free_block, taken;
    errcode_t error;

    if (from > last)
        return ENOENT;
    error = ext2fs_find_first_zero_block_bitmap2(f->fs->block_map, from, last,
                                                 &free_block);
    if (error)
        return error;
    *first = free_block;
    end = last - *first < want ? last : *first + want - 1;
    error = ext2fs_find_first_set_block_bitmap2(f->fs->block_map, *first, end,
                                                &taken);
    if (error && error != ENOENT)
        return error;
    *count = (error ? end + 1 : taken) - *first;
    return 0;
}

errcode_t
obd_ext4_take_blocks(struct obd_ext4 *f, uint64_t want, uint64_t fit,
                     uint64_t *first, uint64_t *count)
{
    uint64_t from = f->next_block, best = 0, size, at;
    int tries, wrapped = 0;
    errcode_t error;

    fit = fit < want ? want : fit;
    fit = fit > MAX_RUN ? MAX_RUN : fit;
    *count = 0;
    for (tries = 0; tries < TRIES || !best; tries++) {
        error = free_run(f, from, fit, &at, &size);
        if (error == ENOENT && !wrapped) {
            wrapped = 1;
            from = f->fs->super->s_first_data_block;
            continue;
        }
        if (error == ENOENT)
            break;
        if (error)
            return error;
        if (size > best) {
            best = size;
            *first = at;
        }
        if (size >= fit)
            break;
        from = at + size;
    }
    if (!best)
        return EXT2_ET_BLOCK_ALLOC_FAIL;
    *count = best < want ? best : want;
    f->next_block = *first + *count;
    ext2fs_block_alloc_stats_range(f->fs, *first, (blk_t)*count, +1);
    return 0;
}

/* -- libext2fs's own allocations, and what it frees */

static errcode_t
take_one(ext2_filsys fs, blk64_t goal, blk64_t *block)
{
    struct obd_ext4 *f = fs->priv_data;
    uint64_t first, size;
    errcode_t error = free_run(f, f->next_block, 1, &first, &size);

    (void)goal;
    if (error == ENOENT)
        error = free_run(f, fs->super->s_first_data_block, 1, &first, &size);
    if (error)
        return error == ENOENT ? EXT2_ET_BLOCK_ALLOC_FAIL : error;
    f->next_block = first + 1;
    *block = first;
    return 0;
}

static void
note_range(ext2_filsys fs, blk64_t block, blk_t count, int in_use)
{
    struct obd_ext4 *f = fs->priv_data;

    /* Without memory the disk keeps a few bytes that nobody reads. */
    if (in_use < 0 && obd_runs_add(&f->freed, block, block, count, 0))
        f->freed.n = 0;
}

static void
note_block(ext2_filsys fs, blk64_t block, int in_use)
{
    note_range(fs, block, 1, in_use);
}

void
obd_ext4_hook(struct obd_ext4 *f)
{
    ext2fs_set_alloc_block_callback(f->fs, take_one, NULL);
    ext2fs_set_block_alloc_stats_callback(f->fs, note_block, NULL);
    ext2fs_set_block_alloc_stats_range_callback(f->fs, note_range, NULL);
}

/* Forget what is still free in one run that was freed. */
static errcode_t
forget_run(struct obd_ext4 *f, uint64_t block, uint64_t end)
{
    while (block < end) {
        uint64_t first, size;
        errcode_t error = free_run(f, block, end - block, &first, &size);
        int failed;

        if (error == ENOENT || (!error && first >= end))
            return 0;
        if (error)
            return error;
        size = size < end - first ? size : end - first;
        failed = obd_cache_discard(f->cache, first * f->fs->blocksize,
                                   size * f->fs->blocksize);
        if (failed)
            return failed;
        block = first + size;
    }
    return 0;
}

errcode_t
obd_ext4_forget_freed(struct obd_ext4 *f)
{
    size_t i;

    for (i = 0; i < f->freed.n; i++) {
        uint64_t block = f->freed.at[i].physical;
        errcode_t error = forget_run(f, block, block + f->freed.at[i].count);

        if (error)
            return error;
    }
    f->freed.n = 0;
    return 0;
}
