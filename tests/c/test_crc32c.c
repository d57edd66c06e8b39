/* SPDX-License-Identifier: Apache-2.0 */
/* crc32c - the kernels against one that does a bit at a time. */

#include "check.h"
#include "crc32c.h"

static uint32_t
bit_by_bit(uint32_t crc, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (crc & 1 ? UINT32_C(0x82f63b78) : 0);
    }
    return crc;
}

/* The check value of CRC-32C, from any catalogue of crcs. */
TEST(crc_of_the_digits)
{
    SAME(~obd_crc32c(UINT32_MAX, "123456789", 9), 0xe3069283);
    SAME(obd_crc32c(7, "", 0), 7);
}

TEST(crc_kernels_agree_at_all_sizes_and_alignments)
{
    struct chance r = { 1 };
    uint8_t *p = grab(200000);

    for (size_t i = 0; i < 200000; i++)
        p[i] = (uint8_t)chance_next(&r);
    for (size_t round = 0; round < 700; round++) {
        size_t n = round < 500 ? round : chance_below(&r, 100000);
        const uint8_t *at = p + chance_below(&r, 64);
        uint32_t seed = (uint32_t)chance_next(&r);
        uint32_t want = bit_by_bit(seed, at, n), got;

        SAME(obd_crc32c(seed, at, n), want);
        for (int k = OBD_CRC32C_PORTABLE; k <= OBD_CRC32C_SSE42; k++)
            if (obd_crc32c_with(k, seed, at, n, &got) == OBD_OK)
                SAME(got, want);
    }
    free(p);
}

TEST(crc_goes_on_from_a_seed)
{
    struct chance r = { 2 };
    uint8_t p[1000];

    chance_fill(&r, p, sizeof p);
    for (size_t cut = 0; cut <= sizeof p; cut++)
        SAME(obd_crc32c(obd_crc32c(9, p, cut), p + cut, sizeof p - cut),
             obd_crc32c(9, p, sizeof p));
}

TEST(crc_refuses_a_kernel_that_cannot_run)
{
    uint32_t crc = 5;

    SAME(obd_crc32c_with(99, 0, "a", 1, &crc), OBD_NO_KERNEL);
    SAME(obd_crc32c_with(-1, 0, "a", 1, &crc), OBD_NO_KERNEL);
    SAME(obd_crc32c_with(OBD_CRC32C_PORTABLE, 0, "a", 1, &crc), OBD_OK);
}
