/* SPDX-License-Identifier: Apache-2.0 */
/* segmap, merge - against a search that walks, and a disk that is an array. */

#include "check.h"
#include "merge.h"
#include "segmap.h"

/* n entries in order and apart; the gaps between them are below gap. */
static struct obd_segment *
random_entries(struct chance *r, size_t n, uint64_t gap, uint64_t longest)
{
    struct obd_segment *s = grab(n * sizeof *s);
    uint64_t at = 0;

    for (size_t i = 0; i < n; i++) {
        uint64_t length = 1 + chance_below(r, longest);

        at += chance_below(r, gap);
        s[i] = entry(at, length, chance_below(r, 1 << 20),
                     chance_below(r, 4) == 0);
        at += length;
    }
    return s;
}

static void
look_up_everywhere(const struct obd_segment *s, size_t n, size_t most_bytes)
{
    struct obd_segmap *m = obd_segmap_new(s, n);

    assert(m != NULL);
    for (size_t i = 0; i < n; i++) {
        uint64_t before = i ? obd_end(&s[i - 1]) : 0;

        SAME(obd_segmap_search(m, before), i);
        SAME(obd_segmap_search(m, obd_start(&s[i])), i);
        SAME(obd_segmap_search(m, obd_end(&s[i]) - 1), i);
        SAME(obd_segmap_search(m, obd_end(&s[i])), i + 1);
    }
    SAME(obd_segmap_search(m, OBD_START_MASK), n);
    SAME(obd_segmap_search(m, UINT64_MAX >> 9), n);
    assert(obd_segmap_memory(m) < 200 + most_bytes * n);
    obd_segmap_free(m);
}

TEST(segmap_finds_what_walking_finds)
{
    struct chance r = { 8 };

    for (int round = 0; round < 300; round++) {
        size_t n = chance_below(&r, round % 10 ? 40 : 4000);
        uint64_t gap = UINT64_C(1) << chance_below(&r, 24);
        uint64_t longest = UINT64_C(1) << chance_below(&r, 14);
        struct obd_segment *s = random_entries(&r, n, gap, longest);

        look_up_everywhere(s, n, 400);
        free(s);
    }
}

/* Few segments far away, and a crowd in one bucket. */
TEST(segmap_of_a_lopsided_disk)
{
    struct chance r = { 9 };
    size_t n = 5000;
    struct obd_segment *s = random_entries(&r, n, 2, 1);

    for (size_t far = 14; far < 50; far++) {
        s[n - 1] = entry(UINT64_C(1) << far, 1, 8, 0);
        look_up_everywhere(s, n, 64);
    }
    free(s);
}

/* The worst that an index can ask for: a crowd at the start of each bucket. */
TEST(segmap_of_crowds_far_apart)
{
    size_t n = 32000, crowd = 16;
    struct obd_segment *s = grab(n * sizeof *s);

    for (size_t far = 4; far < 38; far += 3) {
        for (size_t i = 0; i < n; i++)
            s[i] = entry((uint64_t)(i / crowd) << far | i % crowd, 1, 8, 0);
        look_up_everywhere(s, n, 400);
    }
    free(s);
}

TEST(segmap_up_to_the_last_sector)
{
    struct obd_segment s[2] = {
        entry(0, 1, 8, 0),
        entry(OBD_START_MASK - OBD_MAX_LENGTH, OBD_MAX_LENGTH, 9, 0),
    };

    look_up_everywhere(s, 2, 400);
    look_up_everywhere(s + 1, 1, 400);
    look_up_everywhere(s, 0, 400);
}

#define DISK 2000

/* Which layer a sector reads from, and its moffset; -1 for none. */
struct cell {
    int layer;
    bool zeroed;
    uint64_t moffset;
};

static void
paint(struct cell *disk, const struct obd_segment *s, size_t n, int layer)
{
    for (size_t i = 0; i < n; i++)
        for (uint64_t k = 0; k < obd_length(&s[i]); k++)
            disk[obd_start(&s[i]) + k] = (struct cell){
                layer < 0 ? (int)obd_tag(&s[i]) : layer,
                obd_zeroed(&s[i]),
                obd_zeroed(&s[i]) ? 0 : obd_moffset(&s[i]) + k,
            };
}

static void
same_disk(const struct cell *a, const struct cell *b)
{
    for (size_t i = 0; i < DISK; i++) {
        SAME(a[i].layer, b[i].layer);
        SAME(a[i].zeroed, b[i].zeroed);
        SAME(a[i].moffset, b[i].moffset);
    }
}

static struct cell *
blank_disk(void)
{
    struct cell *disk = grab(DISK * sizeof *disk);

    for (size_t i = 0; i < DISK; i++)
        disk[i] = (struct cell){ -1, false, 0 };
    return disk;
}

/* Merge k random layers and compare with painting them one on the other. */
static void
merge_some(struct chance *r, size_t k)
{
    struct obd_segment *layers[OBD_MAX_STACK], *out;
    size_t counts[OBD_MAX_STACK], n, total = 0;
    struct cell *want = blank_disk(), *got = blank_disk();

    for (size_t i = 0; i < k; i++) {
        counts[i] = chance_below(r, 30);
        layers[i] = random_entries(r, counts[i], 1 + chance_below(r, 40),
                                   1 + chance_below(r, 20));
        /* Tags that came with the input must not survive. */
        for (size_t j = 0; j < counts[i]; j++)
            layers[i][j].hi |= chance_next(r) << OBD_TAG_SHIFT;
        paint(want, layers[i], counts[i], (int)i);
        total += counts[i];
    }
    SAME(obd_merge((const struct obd_segment *const *)layers, counts, k, &out,
                   &n), OBD_OK);
    assert(n <= 2 * total);
    for (size_t i = 1; i < n; i++)
        assert(obd_start(&out[i]) >= obd_end(&out[i - 1]));
    for (size_t i = 0; i < n; i++)
        assert(obd_length(&out[i]) > 0);
    paint(got, out, n, -1);
    same_disk(want, got);
    for (size_t i = 0; i < k; i++)
        free(layers[i]);
    free(out);
    free(want);
    free(got);
}

TEST(merge_is_painting)
{
    struct chance r = { 10 };

    for (int round = 0; round < 400; round++)
        merge_some(&r, 1 + chance_below(&r, 9));
    merge_some(&r, 255);
    merge_some(&r, OBD_MAX_STACK);
}

TEST(merge_refuses_none_and_too_many)
{
    const struct obd_segment *layers[OBD_MAX_STACK + 1] = { NULL };
    size_t counts[OBD_MAX_STACK + 1] = { 0 }, n;
    struct obd_segment *out;

    SAME(obd_merge(layers, counts, 0, &out, &n), OBD_BAD_ARGUMENT);
    SAME(obd_merge(layers, counts, OBD_MAX_STACK + 1, &out, &n),
         OBD_BAD_ARGUMENT);
}
