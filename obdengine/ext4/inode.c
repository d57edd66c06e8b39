/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ext4.h"

#define GOOD_OLD 128            /* bytes of an inode of ext2 */
#define EXTRA ((uint16_t)(sizeof(struct ext2_inode_large) - GOOD_OLD))
#define MAX_LINKS 65000
#define INLINE_TARGET 60        /* a shorter link target is in the inode */

errcode_t
obd_ext4_read_inode(struct obd_ext4 *f, uint32_t ino,
                    struct ext2_inode_large *inode)
{
    memset(inode, 0, sizeof(union obd_inode));
    return ext2fs_read_inode_full(f->fs, ino, (struct ext2_inode *)inode,
                                  (int)EXT2_INODE_SIZE(f->fs->super));
}

errcode_t
obd_ext4_write_inode(struct obd_ext4 *f, uint32_t ino,
                     struct ext2_inode_large *inode)
{
    return ext2fs_write_inode_full(f->fs, ino, (struct ext2_inode *)inode,
                                   (int)EXT2_INODE_SIZE(f->fs->super));
}

/* -- times: 34 bits of seconds, from 1901 to 2446, and nanoseconds */

#define FIRST_SECOND (-(INT64_C(1) << 31))
#define LAST_SECOND ((INT64_C(1) << 34) + FIRST_SECOND - 1)

static void
put_time(struct obd_time t, uint32_t *seconds, uint32_t *extra)
{
    int64_t s = t.seconds;
    int64_t last = extra ? LAST_SECOND : INT32_MAX;

    s = s < FIRST_SECOND ? FIRST_SECOND : s > last ? last : s;
    *seconds = (uint32_t)s;
    if (extra)
        *extra = (uint32_t)((s - (int32_t)s) >> 32 & 3)
                 | t.nanoseconds << 2;
}

static struct obd_time
get_time(uint32_t seconds, uint32_t extra)
{
    struct obd_time t = { (int32_t)seconds, extra >> 2 };

    t.seconds += (int64_t)(extra & 3) << 32;
    return t;
}

static void
put_times(const struct obd_ext4 *f, const struct obd_attributes *a,
          struct ext2_inode_large *i)
{
    int large = EXT2_INODE_SIZE(f->fs->super) > GOOD_OLD;

    put_time(a->atime, &i->i_atime, large ? &i->i_atime_extra : NULL);
    put_time(a->mtime, &i->i_mtime, large ? &i->i_mtime_extra : NULL);
    put_time(a->ctime, &i->i_ctime, large ? &i->i_ctime_extra : NULL);
    if (large)
        put_time(a->mtime, &i->i_crtime, &i->i_crtime_extra);
}

static void
put_owner(const struct obd_attributes *a, struct ext2_inode_large *i)
{
    i->i_uid = (uint16_t)a->uid;
    i->i_gid = (uint16_t)a->gid;
    i->osd2.linux2.l_i_uid_high = (uint16_t)(a->uid >> 16);
    i->osd2.linux2.l_i_gid_high = (uint16_t)(a->gid >> 16);
}

void
obd_ext4_compose(const struct obd_ext4 *f, const struct obd_attributes *a,
                 struct ext2_inode_large *i)
{
    memset(i, 0, sizeof(union obd_inode));
    i->i_mode = (uint16_t)a->mode;
    i->i_links_count = 1;
    put_owner(a, i);
    if (EXT2_INODE_SIZE(f->fs->super) > GOOD_OLD)
        i->i_extra_isize = EXTRA;
    put_times(f, a, i);
}

static uint16_t
extra_size(const struct obd_ext4 *f, const struct ext2_inode_large *i)
{
    return EXT2_INODE_SIZE(f->fs->super) > GOOD_OLD ? i->i_extra_isize : 0;
}

/* The old form has 8 bits for each, the new one 12 and 20. */
static void
get_device(const struct ext2_inode_large *i, struct obd_attributes *a)
{
    uint32_t old = i->i_block[0], new = i->i_block[1];

    if (old) {
        a->major = old >> 8 & 0xff;
        a->minor = old & 0xff;
    } else {
        a->major = new >> 8 & 0xfff;
        a->minor = (new & 0xff) | (new >> 12 & 0xfff00);
    }
}

static errcode_t
put_device(const struct obd_attributes *a, struct ext2_inode_large *i)
{
    if (a->major > 0xfff || a->minor > 0xfffff)
        return EINVAL;
    if (a->major < 256 && a->minor < 256)
        i->i_block[0] = a->major << 8 | a->minor;
    else
        i->i_block[1] = (a->minor & 0xff) | a->major << 8
                        | (a->minor & 0xfff00) << 12;
    return 0;
}

errcode_t
obd_ext4_stat(struct obd_ext4 *f, uint32_t ino, struct obd_attributes *a)
{
    union obd_inode u;
    struct ext2_inode_large *i = &u.large;
    errcode_t error = obd_ext4_read_inode(f, ino, i);
    uint16_t extra;

    if (error)
        return error;
    extra = extra_size(f, i);
    memset(a, 0, sizeof *a);
    a->mode = i->i_mode;
    a->uid = i->i_uid | (uint32_t)i->osd2.linux2.l_i_uid_high << 16;
    a->gid = i->i_gid | (uint32_t)i->osd2.linux2.l_i_gid_high << 16;
    a->links = i->i_links_count;
    a->size = EXT2_I_SIZE(i);
    a->flags = i->i_flags;
    a->generation = i->i_generation;
    a->blocks = ext2fs_get_stat_i_blocks(f->fs, (struct ext2_inode *)i);
    /* Each extra field counts only when the inode says it is that large. */
    a->ctime = get_time(i->i_ctime, extra >= 8 ? i->i_ctime_extra : 0);
    a->mtime = get_time(i->i_mtime, extra >= 12 ? i->i_mtime_extra : 0);
    a->atime = get_time(i->i_atime, extra >= 16 ? i->i_atime_extra : 0);
    if (LINUX_S_ISCHR(a->mode) || LINUX_S_ISBLK(a->mode))
        get_device(i, a);
    return 0;
}

/* -- symbolic links */

static errcode_t
put_target(struct obd_ext4 *f, uint32_t ino, struct ext2_inode_large *i,
           const uint8_t *target, size_t n)
{
    struct obd_run run = { 0, 0, 1, 0 };
    uint64_t count;
    uint8_t *block;
    errcode_t error;

    if (!n || n >= f->fs->blocksize || n > 4095)
        return ENAMETOOLONG;
    i->i_size = (uint32_t)n;
    if (n < INLINE_TARGET) {
        memcpy(i->i_block, target, n);
        return obd_ext4_write_inode(f, ino, i);
    }
    error = obd_ext4_take_blocks(f, 1, 1, &run.physical, &count);
    if (error)
        return error;
    block = calloc(1, f->fs->blocksize);
    if (!block)
        return ENOMEM;
    memcpy(block, target, n);
    error = io_channel_write_blk64(f->fs->io, run.physical, 1, block);
    free(block);
    return error ? error : obd_ext4_map(f, ino, i, &run, 1);
}

errcode_t
obd_ext4_readlink(struct obd_ext4 *f, uint32_t ino, uint8_t *buf, size_t room,
                  size_t *n)
{
    union obd_inode u;
    errcode_t error = obd_ext4_read_inode(f, ino, &u.large);

    if (error)
        return error;
    if (!LINUX_S_ISLNK(u.large.i_mode))
        return EINVAL;
    if (!ext2fs_is_fast_symlink((struct ext2_inode *)&u.large))
        return obd_ext4_read(f, ino, 0, buf, room, n);
    *n = u.large.i_size < room ? u.large.i_size : room;
    memcpy(buf, u.large.i_block, *n);
    return 0;
}

/* -- making, linking, releasing */

errcode_t
obd_ext4_make(struct obd_ext4 *f, const struct obd_attributes *a,
              const uint8_t *target, size_t n, uint32_t *ino)
{
    union obd_inode u;
    struct ext2_inode_large *i = &u.large;
    int directory = LINUX_S_ISDIR(a->mode);
    errcode_t error = obd_ext4_take_inode(f, directory, ino);

    if (error)
        return error;
    obd_ext4_compose(f, a, i);
    if (LINUX_S_ISLNK(a->mode))
        return put_target(f, *ino, i, target, n);
    if (directory)
        i->i_links_count = 2;
    if (LINUX_S_ISCHR(a->mode) || LINUX_S_ISBLK(a->mode)) {
        error = put_device(a, i);
        if (error)
            return error;
    }
    if (directory || LINUX_S_ISREG(a->mode))
        return obd_ext4_map(f, *ino, i, NULL, 0);
    return obd_ext4_write_inode(f, *ino, i);
}

errcode_t
obd_ext4_set(struct obd_ext4 *f, uint32_t ino, const struct obd_attributes *a)
{
    union obd_inode u;
    struct ext2_inode_large *i = &u.large;
    errcode_t error = obd_ext4_read_inode(f, ino, i);

    if (error)
        return error;
    i->i_mode = (uint16_t)((i->i_mode & LINUX_S_IFMT)
                           | (a->mode & ~(uint32_t)LINUX_S_IFMT));
    put_owner(a, i);
    put_times(f, a, i);
    return obd_ext4_write_inode(f, ino, i);
}

errcode_t
obd_ext4_link(struct obd_ext4 *f, uint32_t ino)
{
    union obd_inode u;
    errcode_t error = obd_ext4_read_inode(f, ino, &u.large);

    if (error)
        return error;
    if (u.large.i_links_count >= MAX_LINKS)
        return EMLINK;
    u.large.i_links_count++;
    return obd_ext4_write_inode(f, ino, &u.large);
}

static int
has_blocks(const struct ext2_inode_large *i)
{
    if (LINUX_S_ISLNK(i->i_mode))
        return !ext2fs_is_fast_symlink((struct ext2_inode *)i);
    return LINUX_S_ISREG(i->i_mode) || LINUX_S_ISDIR(i->i_mode);
}

static errcode_t
release(struct obd_ext4 *f, uint32_t ino, struct ext2_inode_large *i)
{
    int directory = LINUX_S_ISDIR(i->i_mode);
    errcode_t error = 0;

    if (has_blocks(i) && !(i->i_flags & EXT4_INLINE_DATA_FL))
        error = ext2fs_punch(f->fs, ino, (struct ext2_inode *)i, NULL, 0,
                             ~(blk64_t)0);
    if (!error)
        error = ext2fs_free_ext_attr(f->fs, ino, i);
    if (error)
        return error;
    /* Nothing of it stays, so that what was deleted leaves no trace. */
    memset(i, 0, sizeof(union obd_inode));
    error = obd_ext4_write_inode(f, ino, i);
    if (!error)
        obd_ext4_give_inode(f, ino, directory);
    return error;
}

errcode_t
obd_ext4_unlink(struct obd_ext4 *f, uint32_t ino)
{
    union obd_inode u;
    errcode_t error = obd_ext4_read_inode(f, ino, &u.large);

    if (error)
        return error;
    if (LINUX_S_ISDIR(u.large.i_mode) || u.large.i_links_count <= 1)
        return release(f, ino, &u.large);
    u.large.i_links_count--;
    return obd_ext4_write_inode(f, ino, &u.large);
}
