/* SPDX-License-Identifier: Apache-2.0 */
/* The index of a directory, as the kernel reads it (ext4's "htree"):
 *
 *   root:  . (12 bytes) .. (the rest) | info (8) | entries
 *   node:  unused entry (8 bytes)     |            entries
 *   entries: limit and count (2 + 2), block; hash, block; hash, block; ...
 *
 * An entry's block has the names from its hash on; the first has those from
 * 0.  Bit 0 of a hash is not part of it: set, it says that the leaf goes on
 * with names of the same hash as the last of the leaf before.
 */

#include "dir.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ROOT_ENTRIES 32u        /* where they begin */
#define NODE_ENTRIES 8u
#define INFO 24u

/* How full leaves are made, in percent: what e2fsck -D leaves is the same. */
#define FILL 80

struct leaf {
    uint32_t hash;
    uint32_t block;
};

struct index {
    int version;
    struct leaf *leaves;
    size_t n;
    size_t room;
    uint32_t *nodes;            /* blocks of the middle level, if any */
    size_t n_nodes;
    int changed;
};

errcode_t
obd_dir_hash(const struct obd_dir *d, int version, struct obd_name *name)
{
    const struct ext2_super_block *s = d->f->fs->super;
    errcode_t error;

    if (version <= EXT2_HASH_TEA && s->s_flags & EXT2_FLAGS_UNSIGNED_HASH)
        version += 3;
    error = ext2fs_dirhash2(version, (const char *)name->name, name->length,
                            NULL, 0, s->s_hash_seed, &name->hash,
                            &name->minor);
    name->hash &= ~UINT32_C(1);
    return error;
}

/* -- reading an index */

static size_t
limit_of(const struct obd_dir *d, size_t start)
{
    size_t tail = d->usable < d->f->fs->blocksize
                      ? sizeof(struct ext2_dx_tail) : 0;

    return (d->f->fs->blocksize - start - tail) / sizeof(struct leaf);
}

static errcode_t
add_leaf(struct index *x, size_t at, uint32_t hash, uint32_t block)
{
    if (x->n == x->room) {
        size_t room = x->room ? x->room * 2 : 64;
        struct leaf *more = realloc(x->leaves, room * sizeof *more);

        if (!more)
            return ENOMEM;
        x->leaves = more;
        x->room = room;
    }
    memmove(&x->leaves[at + 1], &x->leaves[at],
            (x->n - at) * sizeof *x->leaves);
    x->leaves[at] = (struct leaf){ hash, block };
    x->n++;
    return 0;
}

/* How many entries a table says it has; 0 when it makes no sense. */
static size_t
count_of(const struct obd_dir *d, const uint8_t *bytes, size_t start)
{
    uint16_t limit, count;

    memcpy(&limit, bytes + start, 2);
    memcpy(&count, bytes + start + 2, 2);
    return limit <= limit_of(d, start) && count <= limit ? count : 0;
}

static struct leaf
entry_of(const uint8_t *bytes, size_t start, size_t i)
{
    struct leaf e;

    memcpy(&e, bytes + start + i * sizeof e, sizeof e);
    if (!i)
        e.hash = 0;
    e.block &= 0x0fffffff;
    return e;
}

static errcode_t
read_table(struct obd_dir *d, struct index *x, uint32_t block, size_t start,
           uint32_t first_hash)
{
    uint8_t *bytes;
    errcode_t error = obd_dir_block(d, block, &bytes);
    size_t i, n;

    if (error)
        return error;
    n = count_of(d, bytes, start);
    for (i = 0; i < n && !error; i++) {
        struct leaf e = entry_of(bytes, start, i);

        if (e.block >= d->n)
            return EXT2_ET_DIR_CORRUPTED;
        error = add_leaf(x, x->n, i ? e.hash : first_hash, e.block);
    }
    return error ? error : n ? 0 : EXT2_ET_DIR_CORRUPTED;
}

static errcode_t
read_nodes(struct obd_dir *d, struct index *x, const uint8_t *root)
{
    size_t n = count_of(d, root, ROOT_ENTRIES), i;
    errcode_t error = 0;

    x->nodes = malloc((n + 1) * sizeof *x->nodes);
    if (!x->nodes)
        return ENOMEM;
    for (i = 0; i < n && !error; i++) {
        struct leaf e = entry_of(root, ROOT_ENTRIES, i);

        if (!e.block || e.block >= d->n)
            return EXT2_ET_DIR_CORRUPTED;
        x->nodes[x->n_nodes++] = e.block;
        error = read_table(d, x, e.block, NODE_ENTRIES, e.hash);
    }
    return error ? error : n ? 0 : EXT2_ET_DIR_CORRUPTED;
}

static errcode_t
read_index(struct obd_dir *d, struct index *x)
{
    struct ext2_dx_root_info info;
    uint8_t *root;
    errcode_t error = obd_dir_block(d, 0, &root);
    size_t i;

    if (error)
        return error;
    memcpy(&info, root + INFO, sizeof info);
    if (info.info_length != sizeof info || info.hash_version > EXT2_HASH_TEA)
        return EXT2_ET_DIR_CORRUPTED;
    if (info.indirect_levels > 1)
        return EXT2_ET_UNIMPLEMENTED;
    x->version = info.hash_version;
    error = info.indirect_levels ? read_nodes(d, x, root)
                                 : read_table(d, x, 0, ROOT_ENTRIES, 0);
    for (i = 0; !error && i < x->n; i++) {
        if (!x->leaves[i].block
            || (i && x->leaves[i].hash < x->leaves[i - 1].hash))
            error = EXT2_ET_DIR_CORRUPTED;
    }
    return error;
}

/* -- writing an index */

static void
write_table(const struct obd_dir *d, uint8_t *bytes, size_t start,
            const struct leaf *entries, size_t n)
{
    uint16_t words[2] = { (uint16_t)limit_of(d, start), (uint16_t)n };

    memset(bytes + start, 0, d->f->fs->blocksize - start);
    memcpy(bytes + start, entries, n * sizeof *entries);
    memcpy(bytes + start, words, sizeof words);
}

static void
write_root(struct obd_dir *d, const struct index *x, int levels,
           const struct leaf *entries, size_t n)
{
    struct ext2_dx_root_info info = {
        .hash_version = (uint8_t)x->version, .info_length = sizeof info,
        .indirect_levels = (uint8_t)levels
    };
    uint8_t *root = d->blocks[0].bytes;
    uint16_t rest = (uint16_t)(d->f->fs->blocksize - 12);

    memcpy(root + 16, &rest, sizeof rest);
    memcpy(root + INFO, &info, sizeof info);
    write_table(d, root, ROOT_ENTRIES, entries, n);
    d->blocks[0].dirty = 1;
}

static void
write_node(struct obd_dir *d, uint32_t block, const struct leaf *entries,
           size_t n)
{
    uint8_t *bytes = d->blocks[block].bytes;
    uint16_t whole = (uint16_t)d->f->fs->blocksize;

    memset(bytes, 0, NODE_ENTRIES);
    memcpy(bytes + 4, &whole, sizeof whole);
    write_table(d, bytes, NODE_ENTRIES, entries, n);
    d->blocks[block].dirty = 1;
}

/* All nodes that there are must be used: the leaves are spread over them. */
static errcode_t
write_nodes(struct obd_dir *d, struct index *x)
{
    size_t each = limit_of(d, NODE_ENTRIES);
    size_t need = (x->n + each - 1) / each, i, at = 0;
    uint32_t *nodes;
    struct leaf *top;
    errcode_t error = 0;

    need = need < x->n_nodes ? x->n_nodes : need;
    if (need > limit_of(d, ROOT_ENTRIES))
        return EFBIG;
    nodes = realloc(x->nodes, need * sizeof *nodes);
    if (!nodes)
        return ENOMEM;
    x->nodes = nodes;
    top = malloc(need * sizeof *top);
    if (!top)
        return ENOMEM;
    while (x->n_nodes < need && !error)
        error = obd_dir_append(d, &x->nodes[x->n_nodes++]);
    for (i = 0; i < need && !error; i++) {
        size_t end = x->n * (i + 1) / need;
        uint8_t *unused;

        top[i] = (struct leaf){ x->leaves[at].hash, x->nodes[i] };
        error = obd_dir_block(d, x->nodes[i], &unused);
        if (!error)
            write_node(d, x->nodes[i], x->leaves + at, end - at);
        at = end;
    }
    if (!error)
        write_root(d, x, 1, top, need);
    free(top);
    return error;
}

static errcode_t
write_index(struct obd_dir *d, struct index *x)
{
    if (x->n_nodes || x->n > limit_of(d, ROOT_ENTRIES))
        return write_nodes(d, x);
    write_root(d, x, 0, x->leaves, x->n);
    return 0;
}

/* -- leaves */

static int
by_hash(const void *a, const void *b)
{
    const struct obd_name *x = a, *y = b;
    int least = x->length < y->length ? x->length : y->length;
    int order;

    if (x->hash != y->hash)
        return x->hash < y->hash ? -1 : 1;
    if (x->minor != y->minor)
        return x->minor < y->minor ? -1 : 1;
    order = memcmp(x->name, y->name, (size_t)least);
    return order ? order : x->length - y->length;
}

static void
fill(const struct obd_dir *d, uint8_t *bytes, const struct obd_name *names,
     size_t n)
{
    uint8_t *e = bytes;
    size_t i, left = d->usable;

    obd_dir_clear(d, bytes);
    for (i = 0; i < n; i++) {
        size_t need = obd_dir_need(&names[i]);
        uint16_t length = (uint16_t)(i + 1 == n ? left : need);

        memcpy(e, &names[i].ino, 4);
        memcpy(e + 4, &length, 2);
        e[6] = names[i].length;
        e[7] = names[i].type;
        memcpy(e + 8, names[i].name, names[i].length);
        e += need;
        left -= need;
    }
}

/* How many of n sorted names go into a block of `most` bytes; names of one
 * hash stay together if it can be.
 */
static size_t
share(const struct obd_name *names, size_t n, size_t most)
{
    size_t used = 0, i = 0, cut;

    while (i < n && used + obd_dir_need(&names[i]) <= most)
        used += obd_dir_need(&names[i++]);
    for (cut = i; cut && cut < n && names[cut].hash == names[cut - 1].hash;)
        cut--;
    return cut ? cut : i;
}

/* Put sorted names into leaves from number `at` of the index on, the first of
 * which is there, and has its hash.
 */
static errcode_t
spread(struct obd_dir *d, struct index *x, size_t at,
       const struct obd_name *names, size_t n, size_t most)
{
    size_t taken = share(names, n, most);
    uint32_t block = x->leaves[at].block;
    errcode_t error = 0;

    for (;;) {
        fill(d, d->blocks[block].bytes, names, taken);
        d->blocks[block].dirty = 1;
        if (taken == n)
            return 0;
        names += taken;
        n -= taken;
        error = obd_dir_append(d, &block);
        if (!error)
            error = add_leaf(x, ++at,
                             names->hash
                                 | (names->hash == names[-1].hash ? 1 : 0),
                             block);
        if (error)
            return error;
        x->changed = 1;
        taken = share(names, n, most);
    }
}

/* The leaf that has the names of this hash, or the first of them. */
static size_t
leaf_of(const struct index *x, uint32_t hash)
{
    size_t low = 0, high = x->n;

    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;

        if (x->leaves[middle].hash <= hash)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static errcode_t
leaf_bytes(struct obd_dir *d, const struct index *x, size_t at,
           uint8_t **bytes)
{
    errcode_t error = obd_dir_block(d, x->leaves[at].block, bytes);

    if (!error && !obd_dir_is_sound(d, *bytes))
        error = EXT2_ET_DIR_CORRUPTED;
    return error;
}

static errcode_t
remove_indexed(struct obd_dir *d, const struct index *x,
               const struct obd_name *name)
{
    size_t at = leaf_of(x, name->hash);

    do {
        uint8_t *bytes;
        errcode_t error = leaf_bytes(d, x, at, &bytes);

        if (error)
            return error;
        if (obd_dir_remove(d, bytes, name)) {
            d->blocks[x->leaves[at].block].dirty = 1;
            return 0;
        }
    } while (++at < x->n && x->leaves[at].hash == (name->hash | 1));
    return EXT2_ET_DIR_CORRUPTED;
}

/* Make the leaf's names, and n more, into as many leaves as they need. */
static errcode_t
split(struct obd_dir *d, struct index *x, size_t at,
      const struct obd_name *more, size_t n)
{
    struct obd_name *names = NULL;
    size_t count = 0, room = 0, i;
    uint8_t *bytes, *copy = malloc(d->f->fs->blocksize);
    errcode_t error = copy ? leaf_bytes(d, x, at, &bytes) : ENOMEM;

    if (!error) {
        memcpy(copy, bytes, d->f->fs->blocksize);
        error = obd_dir_names(d, copy, &names, &count, &room);
    }
    if (!error) {
        struct obd_name *all = realloc(names, (count + n) * sizeof *all);

        error = all ? 0 : ENOMEM;
        names = all ? all : names;
    }
    for (i = 0; i < count && !error; i++)
        error = obd_dir_hash(d, x->version, &names[i]);
    if (!error) {
        memcpy(names + count, more, n * sizeof *names);
        qsort(names, count + n, sizeof *names, by_hash);
        error = spread(d, x, at, names, count + n, d->usable * FILL / 100);
    }
    free(names);
    free(copy);
    return error;
}

/* Put in the names, sorted, that belong into one leaf: how many is *n. */
static errcode_t
add_to_leaf(struct obd_dir *d, struct index *x, const struct obd_name *names,
            size_t count, size_t *n)
{
    size_t at = leaf_of(x, names->hash), i;
    uint32_t end = at + 1 < x->n ? x->leaves[at + 1].hash : UINT32_MAX;
    uint8_t *bytes;
    errcode_t error = leaf_bytes(d, x, at, &bytes);

    if (error)
        return error;
    *n = 1;
    while (*n < count && names[*n].hash < end)
        ++*n;
    for (i = 0; i < *n; i++) {
        if (!obd_dir_insert(d, bytes, &names[i]))
            return split(d, x, at, names + i, *n - i);
        d->blocks[x->leaves[at].block].dirty = 1;
    }
    return 0;
}

static void
free_index(struct index *x)
{
    free(x->leaves);
    free(x->nodes);
}

errcode_t
obd_dir_change_indexed(struct obd_dir *d, struct obd_name *removed,
                       size_t n_removed, struct obd_name *added,
                       size_t n_added)
{
    struct index x = { 0 };
    errcode_t error = read_index(d, &x);
    size_t i, n;

    for (i = 0; i < n_removed && !error; i++) {
        error = obd_dir_hash(d, x.version, &removed[i]);
        if (!error)
            error = remove_indexed(d, &x, &removed[i]);
    }
    for (i = 0; i < n_added && !error; i++)
        error = obd_dir_hash(d, x.version, &added[i]);
    if (!error)
        qsort(added, n_added, sizeof *added, by_hash);
    for (i = 0; i < n_added && !error; i += n)
        error = add_to_leaf(d, &x, added + i, n_added - i, &n);
    if (!error && x.changed)
        error = write_index(d, &x);
    free_index(&x);
    return error;
}

/* -- from a linear directory */

/* Give back the blocks from number n on. */
static errcode_t
shorten(struct obd_dir *d, uint32_t n)
{
    errcode_t error;
    uint32_t i;

    if (n >= d->mapped)
        return 0;
    error = ext2fs_punch(d->f->fs, d->ino, (struct ext2_inode *)&d->inode,
                         NULL, n, d->mapped - 1);
    for (i = n; i < d->n; i++)
        free(d->blocks[i].bytes);
    d->n = d->mapped = n;
    return error;
}

/* Copies of all blocks, as the names point into them. */
static errcode_t
gather(struct obd_dir *d, uint8_t *copies, struct obd_name **names, size_t *n,
       size_t *room)
{
    size_t size = d->f->fs->blocksize;
    uint8_t *bytes;
    errcode_t error = 0;
    uint32_t i;

    for (i = 0; i < d->n && !error; i++, copies += size) {
        error = obd_dir_block(d, i, &bytes);
        if (error)
            break;
        if (!obd_dir_is_sound(d, bytes))
            return EXT2_ET_DIR_CORRUPTED;
        memcpy(copies, bytes, size);
        error = obd_dir_names(d, copies, names, n, room);
    }
    return error;
}

/* Make every block but the first again, from sorted names. */
static errcode_t
rebuild(struct obd_dir *d, struct index *x, const struct obd_name *names,
        size_t n)
{
    uint32_t block;
    errcode_t error = shorten(d, 1);

    if (!error)
        error = obd_dir_append(d, &block);
    if (!error)
        error = add_leaf(x, 0, 0, block);
    if (!error)
        error = spread(d, x, 0, names, n, d->usable * FILL / 100);
    if (error)
        return error;
    obd_dir_clear(d, d->blocks[0].bytes);
    obd_dir_put_dots(d, d->blocks[0].bytes);
    error = write_index(d, x);
    d->inode.large.i_flags |= EXT2_INDEX_FL;
    return error;
}

errcode_t
obd_dir_build_index(struct obd_dir *d, const struct obd_name *added, size_t n)
{
    struct index x = { .version = d->f->fs->super->s_def_hash_version };
    struct obd_name *names = NULL;
    size_t count = 0, room = 0, i;
    uint8_t *copies = malloc((size_t)d->n * d->f->fs->blocksize);
    errcode_t error = copies ? gather(d, copies, &names, &count, &room)
                             : ENOMEM;

    if (!error) {
        struct obd_name *all = realloc(names, (count + n) * sizeof *all);

        error = all ? 0 : ENOMEM;
        names = all ? all : names;
    }
    if (!error)
        memcpy(names + count, added, n * sizeof *names);
    for (i = 0; i < count + n && !error; i++)
        error = obd_dir_hash(d, x.version, &names[i]);
    if (!error) {
        qsort(names, count + n, sizeof *names, by_hash);
        error = rebuild(d, &x, names, count + n);
    }
    free(names);
    free(copies);
    free_index(&x);
    return error;
}
