/* SPDX-License-Identifier: Apache-2.0 */
/* gunzip - a zlib stream that is made once and used again and again. */

#ifndef OBD_GUNZIP_H
#define OBD_GUNZIP_H

#define ZLIB_CONST
#include <zlib.h>

#include "obd.h"

/* What zlib calls a gzip member with its header, and bare deflate. */
#define OBD_WBITS_MEMBER 31
#define OBD_WBITS_RAW (-15)
#define OBD_WBITS_ZLIB 15

/* The stream in *kept, made when there is none, ready for a new start.  NULL
 * without memory.
 */
extern z_stream *obd_gunzip_begin(void **kept, int wbits)
    OBD_NONNULL(1) OBD_MUST_USE;

/* Free the stream in *kept. */
extern void obd_gunzip_clear(void **kept) OBD_NONNULL(1);

#endif
