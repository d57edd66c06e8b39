/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <et/com_err.h>

#include "cache.h"
#include "ext4.h"
#include "manager.h"

/* Bytes of data gathered into one write. */
#define GATHERED (1u << 20)

static errcode_t
open_library(struct obd_ext4 *f)
{
    int flags = EXT2_FLAG_64BITS | EXT2_FLAG_SKIP_MMP;
    errcode_t error;

    if (f->writable)
        flags |= EXT2_FLAG_RW;
    obd_ext4_next_cache(f->cache);
    error = ext2fs_open2("disk", NULL, flags, 0, 0, &obd_ext4_manager,
                         &f->fs);
    if (error)
        return error;
    f->fs->now = (time_t)f->now;
    f->fs->priv_data = f;
    /* Copies of the superblock are for the day it is lost: they say enough. */
    f->fs->flags |= EXT2_FLAG_MASTER_SB_ONLY;
    if (!f->writable)
        return 0;
    f->data_room = GATHERED / f->fs->blocksize;
    f->data = malloc(GATHERED);
    if (!f->data)
        return ENOMEM;
    f->fs->default_bitmap_type = EXT2FS_BMAP64_RBTREE;
    error = ext2fs_read_bitmaps(f->fs);
    if (error)
        return error;
    f->next_block = f->fs->super->s_first_data_block;
    f->next_inode = EXT2_FIRST_INO(f->fs->super);
    obd_ext4_hook(f);
    return 0;
}

errcode_t
obd_ext4_open(const struct obd_disk *disk, int writable, size_t cache,
              int64_t now, struct obd_ext4 **out)
{
    struct obd_ext4 *f = calloc(1, sizeof *f);

    *out = f;
    if (!f)
        return ENOMEM;
    initialize_ext2_error_table();
    f->disk = *disk;
    f->writable = writable;
    f->now = now ? now : 1;     /* for libext2fs 0 is "ask the clock" */
    f->cache = obd_cache_new(&f->disk, cache);
    if (!f->cache)
        return ENOMEM;
    return open_library(f);
}

errcode_t
obd_ext4_flush(struct obd_ext4 *f)
{
    errcode_t error;

    if (!f->writable)
        return 0;
    error = obd_ext4_flush_data(f);
    if (!error)
        error = obd_ext4_forget_freed(f);
    if (!error)
        error = ext2fs_flush2(f->fs, EXT2_FLAG_FLUSH_NO_SYNC);
    return error ? error : obd_cache_flush(f->cache);
}

errcode_t
obd_ext4_close(struct obd_ext4 *f)
{
    errcode_t error = obd_ext4_flush(f);

    obd_ext4_abandon(f);
    return error;
}

void
obd_ext4_abandon(struct obd_ext4 *f)
{
    if (!f)
        return;
    if (f->fs)
        ext2fs_free(f->fs);
    obd_cache_free(f->cache);
    free(f->freed.at);
    free(f->runs.at);
    free(f->tail);
    free(f->data);
    free(f);
}

void
obd_ext4_facts(const struct obd_ext4 *f, struct obd_ext4_facts *facts)
{
    const struct ext2_super_block *s = f->fs->super;

    memset(facts, 0, sizeof *facts);
    facts->block_size = f->fs->blocksize;
    facts->inode_size = EXT2_INODE_SIZE(s);
    facts->blocks = ext2fs_blocks_count(f->fs->super);
    facts->free_blocks = ext2fs_free_blocks_count(f->fs->super);
    facts->reserved_blocks = ext2fs_r_blocks_count(f->fs->super);
    facts->inodes = s->s_inodes_count;
    facts->free_inodes = s->s_free_inodes_count;
    facts->compat = s->s_feature_compat;
    facts->incompat = s->s_feature_incompat;
    facts->ro_compat = s->s_feature_ro_compat;
    facts->clean = (s->s_state & EXT2_VALID_FS)
                   && !(s->s_state & EXT2_ERROR_FS);
    memcpy(facts->uuid, s->s_uuid, sizeof facts->uuid);
    memcpy(facts->label, s->s_volume_name, sizeof facts->label - 1);
}

errcode_t
obd_ext4_normalize(struct obd_ext4 *f)
{
    struct ext2_super_block *s = f->fs->super;

    /* Names are hashed as this machine's `char` is, unless it is said. */
    s->s_flags &= ~(__u32)(EXT2_FLAGS_SIGNED_HASH | EXT2_FLAGS_UNSIGNED_HASH);
    s->s_flags |= EXT2_FLAGS_SIGNED_HASH;
    s->s_kbytes_written = 0;
    f->fs->flags &= ~EXT2_FLAG_MASTER_SB_ONLY;
    ext2fs_mark_super_dirty(f->fs);
    return 0;
}

const char *
obd_ext4_message(errcode_t code)
{
    return error_message(code);
}
