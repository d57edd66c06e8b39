/* SPDX-License-Identifier: Apache-2.0 */
/* ext4 - an ext2, 3 or 4 file system on a disk of ours, through libext2fs.
 *
 * The disk is reached by the functions of the C core, given as pointers: this
 * module links to libext2fs and the core does not.  Nothing here knows of
 * tars or of Python.  One thread at a time may use a file system.
 *
 * What returns errcode_t returns 0, an errno, or a code of libext2fs.
 */

#ifndef OBD_EXT4_H
#define OBD_EXT4_H

#include <stddef.h>
#include <stdint.h>

#include <ext2fs/ext2_fs.h>
#include <ext2fs/ext2fs.h>

#include "obd.h"

#define OBD_EXT4_VERSION 1

struct obd_device;
struct obd_cache;

enum obd_disk_op { OBD_DISK_READ, OBD_DISK_WRITE, OBD_DISK_DISCARD };

/* The disk.  What fails, because bytes are absent or for any other reason, is
 * done again by recover, which gets what is absent: 0, or an errno.
 */
struct obd_disk {
    struct obd_device *device;
    int (*read)(const struct obd_device *d, uint64_t offset, uint8_t *buf,
                size_t size, struct obd_fault *fault);
    int (*write)(struct obd_device *d, uint64_t offset, const uint8_t *buf,
                 size_t size, struct obd_fault *fault);
    int (*discard)(struct obd_device *d, uint64_t offset, uint64_t size,
                   struct obd_fault *fault);
    int (*recover)(void *context, int op, uint64_t offset, uint8_t *buf,
                   uint64_t size);
    void *context;
    uint64_t size;              /* bytes */
};

struct obd_time {
    int64_t seconds;
    uint32_t nanoseconds;
};

/* What an inode is, apart from its content. */
struct obd_attributes {
    uint32_t mode;              /* type and permissions, as st_mode */
    uint32_t uid;
    uint32_t gid;
    uint32_t links;
    uint32_t major;
    uint32_t minor;
    uint64_t size;
    uint64_t blocks;            /* units of 512 bytes */
    uint32_t flags;
    uint32_t generation;
    struct obd_time atime;
    struct obd_time mtime;
    struct obd_time ctime;
};

/* A run of blocks; file-system blocks, not sectors. */
struct obd_run {
    uint64_t logical;           /* in the file */
    uint64_t physical;          /* on the disk */
    uint64_t count;
    uint32_t unwritten;         /* reads as zeros all the same */
};

struct obd_runs {
    struct obd_run *at;
    size_t n;
    size_t room;
};

struct obd_ext4 {
    struct obd_disk disk;
    struct obd_cache *cache;
    ext2_filsys fs;
    int writable;
    int64_t now;                /* what is written as the present, seconds */

    uint64_t next_block;        /* where to look for free blocks first */
    uint32_t next_inode;
    struct obd_runs freed;      /* blocks given back; some are used again */

    /* The file that is being written. */
    uint32_t file;              /* its inode, 0 for none */
    struct obd_attributes about;
    struct obd_runs runs;
    uint64_t expected;          /* blocks that are still to come */
    uint8_t *tail;              /* a block that may get more bytes */
    uint64_t tail_block;
    int tail_held;

    /* Data on its way to the disk, one run. */
    uint8_t *data;
    uint64_t data_block;
    uint32_t data_blocks;
    uint32_t data_room;
};

struct obd_ext4_facts {
    uint32_t block_size;
    uint32_t inode_size;
    uint64_t blocks;
    uint64_t free_blocks;
    uint64_t reserved_blocks;
    uint32_t inodes;
    uint32_t free_inodes;
    uint32_t compat;
    uint32_t incompat;
    uint32_t ro_compat;
    uint32_t clean;
    uint8_t uuid[16];
    char label[17];
};

/* fs.c */

/* Open what is on the disk.
 * cache: bytes that blocks of metadata may take.  The caller frees *out with
 * obd_ext4_abandon() or, when it returned 0, obd_ext4_close().
 */
extern errcode_t obd_ext4_open(const struct obd_disk *disk, int writable,
                               size_t cache, int64_t now,
                               struct obd_ext4 **out);

/* Write everything that waits; the disk itself is not flushed. */
extern errcode_t obd_ext4_flush(struct obd_ext4 *f);

/* Flush, and free in any case. */
extern errcode_t obd_ext4_close(struct obd_ext4 *f);

/* Free without writing: the disk is then as torn as after a crash. */
extern void obd_ext4_abandon(struct obd_ext4 *f);

extern void obd_ext4_facts(const struct obd_ext4 *f,
                           struct obd_ext4_facts *facts);

/* Set what mke2fs takes from the machine it runs on, in all copies. */
extern errcode_t obd_ext4_normalize(struct obd_ext4 *f);

extern const char *obd_ext4_message(errcode_t code);

/* inode.c */
extern errcode_t obd_ext4_stat(struct obd_ext4 *f, uint32_t ino,
                               struct obd_attributes *a);
extern errcode_t obd_ext4_readlink(struct obd_ext4 *f, uint32_t ino,
                                   uint8_t *buf, size_t room, size_t *n);

/* A new inode of a->mode: a directory without entries, a symbolic link to
 * the n bytes of target, a device, a FIFO or an empty file.  It has one link,
 * a directory two; a->links is not looked at.
 */
extern errcode_t obd_ext4_make(struct obd_ext4 *f,
                               const struct obd_attributes *a,
                               const uint8_t *target, size_t n,
                               uint32_t *ino);

/* Set permissions, owner and times of an inode. */
extern errcode_t obd_ext4_set(struct obd_ext4 *f, uint32_t ino,
                              const struct obd_attributes *a);

/* One link more; EMLINK when there are too many. */
extern errcode_t obd_ext4_link(struct obd_ext4 *f, uint32_t ino);

/* One link less, and none at all for a directory: with the last the inode
 * and its blocks are free.
 */
extern errcode_t obd_ext4_unlink(struct obd_ext4 *f, uint32_t ino);

/* file.c */

/* Write a new file: begin, data in ascending order, end.  What was not
 * written, and blocks of zeros, are holes.  With data NULL, blocks are given
 * to the range, which read as zeros.
 */
extern errcode_t obd_ext4_file_begin(struct obd_ext4 *f,
                                     const struct obd_attributes *a,
                                     uint32_t *ino);
extern errcode_t obd_ext4_file_data(struct obd_ext4 *f, uint64_t offset,
                                    const uint8_t *data, size_t size);
extern errcode_t obd_ext4_file_end(struct obd_ext4 *f, uint64_t size);

/* All three at once. */
extern errcode_t obd_ext4_file(struct obd_ext4 *f,
                               const struct obd_attributes *a,
                               const uint8_t *data, size_t size,
                               uint32_t *ino);

/* The runs of a file from the logical block on, at most room. */
extern errcode_t obd_ext4_runs(struct obd_ext4 *f, uint32_t ino,
                               uint64_t logical, struct obd_run *out,
                               size_t room, size_t *n);

/* Read from a file by libext2fs; slow, for data inside the inode. */
extern errcode_t obd_ext4_read(struct obd_ext4 *f, uint32_t ino,
                               uint64_t offset, uint8_t *buf, size_t size,
                               size_t *n);

/* dir.c */

/* The entries of a directory but . and .., one after the other:
 * u32 inode, u8 type (EXT2_FT_), u8 length, name.  *out is to be freed.
 */
extern errcode_t obd_ext4_list(struct obd_ext4 *f, uint32_t ino,
                               uint8_t **out, size_t *n);

enum obd_dir_op { OBD_DIR_REMOVE = 0, OBD_DIR_ADD = 1 };

/* Change a directory: n bytes of u8 op, then an entry as above.  Names are
 * different; those that are removed are there, those that are added are not.
 * links: of the directory, as it shall be.  A new directory (one without
 * blocks) gets . and .., which is parent.
 */
extern errcode_t obd_ext4_change(struct obd_ext4 *f, uint32_t ino,
                                 uint32_t parent, uint32_t links,
                                 const uint8_t *changes, size_t n);

/* xattr.c */

/* All extended attributes: u8 length, name, u32 length, value. */
extern errcode_t obd_ext4_xattrs(struct obd_ext4 *f, uint32_t ino,
                                 uint8_t **out, size_t *n);

/* Give the inode these attributes, in the same form, and no others. */
extern errcode_t obd_ext4_set_xattrs(struct obd_ext4 *f, uint32_t ino,
                                     const uint8_t *packed, size_t n);

/* -- inside the module */

/* alloc.c */
extern errcode_t obd_ext4_take_inode(struct obd_ext4 *f, int directory,
                                     uint32_t *ino);
extern void obd_ext4_give_inode(struct obd_ext4 *f, uint32_t ino,
                                int directory);

/* Up to want blocks in one run, from where there is room for fit of them if
 * there is such a place; ENOSPC when none is free.
 */
extern errcode_t obd_ext4_take_blocks(struct obd_ext4 *f, uint64_t want,
                                      uint64_t fit, uint64_t *first,
                                      uint64_t *count);

/* Have libext2fs use the same rules, and note what it frees. */
extern void obd_ext4_hook(struct obd_ext4 *f);

/* Let the disk forget what is free now. */
extern errcode_t obd_ext4_forget_freed(struct obd_ext4 *f);

extern errcode_t obd_runs_add(struct obd_runs *r, uint64_t logical,
                              uint64_t physical, uint64_t count,
                              uint32_t unwritten);

/* inode.c */
extern void obd_ext4_compose(const struct obd_ext4 *f,
                             const struct obd_attributes *a,
                             struct ext2_inode_large *inode);
extern errcode_t obd_ext4_read_inode(struct obd_ext4 *f, uint32_t ino,
                                     struct ext2_inode_large *inode);
extern errcode_t obd_ext4_write_inode(struct obd_ext4 *f, uint32_t ino,
                                      struct ext2_inode_large *inode);

/* An inode of the largest size there is: libext2fs reads all of it. */
union obd_inode {
    struct ext2_inode_large large;
    uint8_t bytes[4096];
};

/* file.c */

/* Map runs, in order, into an inode that has no blocks yet. */
extern errcode_t obd_ext4_map(struct obd_ext4 *f, uint32_t ino,
                              struct ext2_inode_large *inode,
                              const struct obd_run *runs, size_t n);
extern errcode_t obd_ext4_flush_data(struct obd_ext4 *f);

#endif
