/* SPDX-License-Identifier: Apache-2.0 */
/* zblock - see zblock.h. */

#include "zblock.h"

#include "bytes.h"
#include "crc32c.h"
#include "scratch.h"

size_t
obd_zblock_bound(int algo, size_t size, int verify)
{
    return obd_codec_bound(algo, size) + (verify ? OBD_CRC_SIZE : 0);
}

int
obd_zblock_decode(struct obd_codec *c, int algo, int verify,
                  const uint8_t *src, size_t n, uint8_t *dst, size_t size,
                  struct obd_fault *fault)
{
    if (verify) {
        if (n < OBD_CRC_SIZE) {
            fault->got = n;
            fault->want = OBD_CRC_SIZE;
            return OBD_BAD_LENGTH;
        }
        n -= OBD_CRC_SIZE;
        uint32_t crc = obd_crc32c(OBD_BLOCK_SEED, src, n);

        if (crc != obd_load32(src + n)) {
            fault->got = crc;
            fault->want = obd_load32(src + n);
            return OBD_BAD_CRC;
        }
    }
    return obd_codec_inflate(c, algo, src, n, dst, size, fault);
}

static int
encode_all(struct obd_codec *c, int algo, int level, uint32_t block_size,
           int verify, const uint8_t *src, size_t n, uint8_t *dst,
           size_t cap, uint32_t *lengths, size_t *written)
{
    size_t used = 0;

    for (size_t i = 0; n > 0; i++) {
        size_t size = n < block_size ? n : block_size, stored;

        if (cap - used < obd_zblock_bound(algo, size, verify))
            return OBD_BAD_ARGUMENT;
        int status = obd_codec_deflate(c, algo, level, src, size, dst + used,
                                       cap - used, &stored);

        if (status != OBD_OK)
            return status;
        if (verify) {
            obd_store32(dst + used + stored,
                        obd_crc32c(OBD_BLOCK_SEED, dst + used, stored));
            stored += OBD_CRC_SIZE;
        }
        lengths[i] = (uint32_t)stored;
        used += stored;
        src += size;
        n -= size;
    }
    *written = used;
    return OBD_OK;
}

int
obd_zblock_encode(int algo, int level, uint32_t block_size, int verify,
                  const uint8_t *src, size_t n, uint8_t *dst, size_t cap,
                  uint32_t *lengths, size_t *written)
{
    if (block_size == 0 || block_size > OBD_BLOCK_MAX
        || !obd_codec_known(algo))
        return OBD_BAD_ARGUMENT;
    struct obd_scratch *s = obd_scratch_take();

    if (s == NULL)
        return OBD_NOMEM;
    int status = encode_all(&s->codec, algo, level, block_size, verify, src,
                            n, dst, cap, lengths, written);
    obd_scratch_give(s);
    return status;
}

int
obd_zblock_decode_one(int algo, int verify, const uint8_t *src, size_t n,
                      uint8_t *dst, size_t size, struct obd_fault *fault)
{
    struct obd_scratch *s = obd_scratch_take();

    if (s == NULL)
        return OBD_NOMEM;
    int status = obd_zblock_decode(&s->codec, algo, verify, src, n, dst, size,
                                   fault);
    obd_scratch_give(s);
    return status;
}
