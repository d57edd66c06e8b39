/* SPDX-License-Identifier: Apache-2.0 */
/* dir - the blocks of one directory, read as needed and written once.
 *
 *   linear:   . .. a b c | d e f | ...           any order
 *   indexed:  root | leaf | leaf | node | ...     leaves by hash of the name
 *
 * The root and, when there are many leaves, one level of nodes say which
 * hashes each leaf has from.  Offsets are bytes in a block.
 */

#ifndef OBD_DIR_H
#define OBD_DIR_H

#include "ext4.h"

struct obd_dir_block {
    uint64_t physical;
    uint8_t *bytes;             /* NULL: not read */
    int dirty;
};

struct obd_dir {
    struct obd_ext4 *f;
    uint32_t ino;
    uint32_t parent;
    union obd_inode inode;
    struct obd_dir_block *blocks;
    uint32_t n;
    uint32_t mapped;            /* of them that the inode knows */
    uint32_t room;
    size_t usable;              /* bytes of a block before its checksum */
};

/* An entry on its way into a directory, or out of it. */
struct obd_name {
    uint32_t ino;
    uint32_t hash;
    uint32_t minor;
    uint8_t type;
    uint8_t length;
    const uint8_t *name;
};

/* dirblock.c */
extern errcode_t obd_dir_block(struct obd_dir *d, uint32_t i,
                               uint8_t **bytes);

/* A new block at the end, all one unused entry. */
extern errcode_t obd_dir_append(struct obd_dir *d, uint32_t *i);

/* Make a block one unused entry. */
extern void obd_dir_clear(const struct obd_dir *d, uint8_t *bytes);

/* Put . and .. into a cleared block. */
extern void obd_dir_put_dots(const struct obd_dir *d, uint8_t *bytes);

/* Find, remove, insert: 1 when it was, 0 when there is no such, or no room. */
extern int obd_dir_remove(const struct obd_dir *d, uint8_t *bytes,
                          const struct obd_name *name);
extern int obd_dir_insert(const struct obd_dir *d, uint8_t *bytes,
                          const struct obd_name *name);

/* Whether the entries of a block follow each other to its end. */
extern int obd_dir_is_sound(const struct obd_dir *d, const uint8_t *bytes);

/* The names in a block but . and .., appended to *all, *n of *room; they
 * point into bytes.
 */
extern errcode_t obd_dir_names(const struct obd_dir *d, const uint8_t *bytes,
                               struct obd_name **all, size_t *n,
                               size_t *room);

/* Bytes that an entry takes. */
static inline size_t
obd_dir_need(const struct obd_name *name)
{
    return (8u + name->length + 3u) & ~(size_t)3;
}

/* htree.c */
extern errcode_t obd_dir_hash(const struct obd_dir *d, int version,
                              struct obd_name *name);

/* Change an indexed directory. */
extern errcode_t obd_dir_change_indexed(struct obd_dir *d,
                                        struct obd_name *removed,
                                        size_t n_removed,
                                        struct obd_name *added,
                                        size_t n_added);

/* Make a linear directory an indexed one, with these names besides its own. */
extern errcode_t obd_dir_build_index(struct obd_dir *d,
                                     const struct obd_name *added, size_t n);

#endif
