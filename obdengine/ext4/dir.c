/* SPDX-License-Identifier: Apache-2.0 */

#include "dir.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LINKS 65000

/* Entries have 16 bits for their length; 65536 needs a special case. */
#define MAX_BLOCK 32768

/* -- listing */

struct listing {
    uint8_t *bytes;
    size_t n;
    size_t room;
    errcode_t error;
};

static int
list_one(ext2_ino_t dir, int entry, struct ext2_dir_entry *e, int offset,
         int size, char *buf, void *data)
{
    struct listing *l = data;
    uint8_t length = (uint8_t)ext2fs_dirent_name_len(e);
    uint32_t ino = e->inode;

    (void)dir;
    (void)offset;
    (void)size;
    (void)buf;
    /* Inside an inode, .. is called another file. */
    if (entry != DIRENT_OTHER_FILE || !ino || !length
        || (length == 2 && memcmp(e->name, "..", 2) == 0))
        return 0;
    if (l->room - l->n < 6u + length) {
        size_t room = l->room * 2 + 4096;
        uint8_t *more = realloc(l->bytes, room);

        if (!more) {
            l->error = ENOMEM;
            return DIRENT_ABORT;
        }
        l->bytes = more;
        l->room = room;
    }
    memcpy(l->bytes + l->n, &ino, 4);
    l->bytes[l->n + 4] = (uint8_t)ext2fs_dirent_file_type(e);
    l->bytes[l->n + 5] = length;
    memcpy(l->bytes + l->n + 6, e->name, length);
    l->n += 6u + length;
    return 0;
}

errcode_t
obd_ext4_list(struct obd_ext4 *f, uint32_t ino, uint8_t **out, size_t *n)
{
    struct listing l = { NULL, 0, 0, 0 };
    errcode_t error = ext2fs_dir_iterate2(f->fs, ino, 0, NULL, list_one, &l);

    error = error ? error : l.error;
    if (error) {
        free(l.bytes);
        l.bytes = NULL;
        l.n = 0;
    }
    *out = l.bytes;
    *n = l.n;
    return error;
}

/* -- opening and closing a directory that is changed */

static errcode_t
find_blocks(struct obd_dir *d)
{
    uint64_t n = EXT2_I_SIZE(&d->inode.large) / d->f->fs->blocksize;
    struct obd_run *runs;
    size_t count, i;
    errcode_t error;

    if (n > ext2fs_blocks_count(d->f->fs->super) || n > UINT32_MAX / 2)
        return EXT2_ET_DIR_CORRUPTED;
    d->n = d->mapped = d->room = (uint32_t)n;
    if (!n)
        return 0;
    d->blocks = calloc(n, sizeof *d->blocks);
    runs = malloc(n * sizeof *runs);
    error = d->blocks && runs ? 0 : ENOMEM;
    if (!error)
        error = obd_ext4_runs(d->f, d->ino, 0, runs, n, &count);
    for (i = 0; !error && i < count; i++) {
        uint64_t k, at = runs[i].logical;

        for (k = 0; k < runs[i].count && at + k < n; k++)
            d->blocks[at + k].physical = runs[i].physical + k;
    }
    free(runs);
    for (i = 0; !error && i < n; i++)
        error = d->blocks[i].physical ? 0 : EXT2_ET_DIR_CORRUPTED;
    return error;
}

static errcode_t
begin(struct obd_dir *d)
{
    size_t size = d->f->fs->blocksize;
    uint32_t first;
    errcode_t error;

    if (size > MAX_BLOCK)
        return EXT2_ET_UNIMPLEMENTED;
    d->usable = size;
    if (ext2fs_has_feature_metadata_csum(d->f->fs->super))
        d->usable -= sizeof(struct ext2_dir_entry_tail);
    error = obd_ext4_read_inode(d->f, d->ino, &d->inode.large);
    if (!error && d->inode.large.i_flags & EXT4_INLINE_DATA_FL)
        error = EXT2_ET_INLINE_DATA_CANT_ITERATE;
    if (!error)
        error = find_blocks(d);
    if (error || d->n)
        return error;
    error = obd_dir_append(d, &first);
    if (!error)
        obd_dir_put_dots(d, d->blocks[0].bytes);
    return error;
}

/* Map the blocks that are new. */
static errcode_t
map_new(struct obd_dir *d)
{
    struct ext2_inode *inode = (struct ext2_inode *)&d->inode.large;
    struct obd_runs runs = { NULL, 0, 0 };
    errcode_t error = 0;
    uint32_t i;

    if (!d->mapped) {
        for (i = 0; i < d->n && !error; i++)
            error = obd_runs_add(&runs, i, d->blocks[i].physical, 1, 0);
        if (!error)
            error = obd_ext4_map(d->f, d->ino, &d->inode.large, runs.at,
                                 runs.n);
        free(runs.at);
        return error;
    }
    for (i = d->mapped; i < d->n && !error; i++) {
        blk64_t block = d->blocks[i].physical;

        error = ext2fs_iblk_add_blocks(d->f->fs, inode, 1);
        if (!error)
            error = ext2fs_bmap2(d->f->fs, d->ino, inode, NULL,
                                 BMAP_SET | BMAP_ALLOC, i,
                                 NULL, &block);
    }
    return error;
}

static errcode_t
finish(struct obd_dir *d, uint32_t links)
{
    struct ext2_inode_large *inode = &d->inode.large;
    errcode_t error;
    uint32_t i;

    for (i = 0; i < d->n; i++) {
        if (!d->blocks[i].dirty)
            continue;
        error = ext2fs_write_dir_block4(d->f->fs, d->blocks[i].physical,
                                        d->blocks[i].bytes, 0, d->ino);
        if (error)
            return error;
    }
    if (links > MAX_LINKS) {
        if (!ext2fs_has_feature_dir_nlink(d->f->fs->super))
            return EMLINK;
        links = 1;
    }
    inode->i_links_count = (uint16_t)links;
    error = ext2fs_inode_size_set(d->f->fs, (struct ext2_inode *)inode,
                                  (ext2_off64_t)d->n * d->f->fs->blocksize);
    if (!error && d->mapped < d->n)
        error = map_new(d);
    return error ? error : obd_ext4_write_inode(d->f, d->ino, inode);
}

static void
drop(struct obd_dir *d)
{
    uint32_t i;

    for (i = 0; i < d->n && d->blocks; i++)
        free(d->blocks[i].bytes);
    free(d->blocks);
}

/* -- changing */

static errcode_t
sound_block(struct obd_dir *d, uint32_t i, uint8_t **bytes)
{
    errcode_t error = obd_dir_block(d, i, bytes);

    if (!error && !obd_dir_is_sound(d, *bytes))
        error = EXT2_ET_DIR_CORRUPTED;
    return error;
}

static errcode_t
remove_linear(struct obd_dir *d, const struct obd_name *name)
{
    uint32_t i;

    for (i = 0; i < d->n; i++) {
        uint8_t *bytes;
        errcode_t error = sound_block(d, i, &bytes);

        if (error)
            return error;
        if (obd_dir_remove(d, bytes, name)) {
            d->blocks[i].dirty = 1;
            return 0;
        }
    }
    return EXT2_ET_DIR_CORRUPTED;
}

static errcode_t
change_linear(struct obd_dir *d, const struct obd_name *removed,
              size_t n_removed, const struct obd_name *added, size_t n_added)
{
    int index = ext2fs_has_feature_dir_index(d->f->fs->super);
    uint32_t block = 0;
    uint8_t *bytes;
    errcode_t error = 0;
    size_t i;

    for (i = 0; i < n_removed && !error; i++)
        error = remove_linear(d, &removed[i]);
    /* A block that had no room is not looked at again: a gap that a shorter
     * name would have filled stays, and the time is linear.
     */
    for (i = 0; i < n_added && !error;) {
        if (block == d->n) {
            if (index)
                return obd_dir_build_index(d, added + i, n_added - i);
            error = obd_dir_append(d, &block);
            continue;
        }
        error = sound_block(d, block, &bytes);
        if (!error && obd_dir_insert(d, bytes, &added[i])) {
            d->blocks[block].dirty = 1;
            i++;
        } else {
            block++;
        }
    }
    return error;
}

/* Take out the names of one kind of change. */
static size_t
unpack(const struct obd_dir *d, const uint8_t *p, const uint8_t *end, int op,
       struct obd_name *out)
{
    int typed = ext2fs_has_feature_filetype(d->f->fs->super);
    size_t n = 0;

    for (; p < end; p += 7 + p[6]) {
        if (*p != op)
            continue;
        memcpy(&out[n].ino, p + 1, 4);
        out[n].type = typed ? p[5] : 0;
        out[n].length = p[6];
        out[n++].name = p + 7;
    }
    return n;
}

static int
is_indexed(const struct obd_dir *d)
{
    return ext2fs_has_feature_dir_index(d->f->fs->super)
           && d->inode.large.i_flags & EXT2_INDEX_FL;
}

errcode_t
obd_ext4_change(struct obd_ext4 *f, uint32_t ino, uint32_t parent,
                uint32_t links, const uint8_t *changes, size_t n)
{
    struct obd_dir d = { .f = f, .ino = ino, .parent = parent };
    struct obd_name *names = calloc(n / 8 + 1, sizeof *names);
    size_t removed, added;
    errcode_t error = names ? begin(&d) : ENOMEM;

    if (!error) {
        const uint8_t *end = changes + n;

        removed = unpack(&d, changes, end, OBD_DIR_REMOVE, names);
        added = unpack(&d, changes, end, OBD_DIR_ADD, names + removed);
        if (is_indexed(&d))
            error = obd_dir_change_indexed(&d, names, removed,
                                           names + removed, added);
        else
            error = change_linear(&d, names, removed, names + removed, added);
    }
    if (!error)
        error = finish(&d, links);
    drop(&d);
    free(names);
    return error;
}
