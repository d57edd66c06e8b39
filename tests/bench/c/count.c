/* SPDX-License-Identifier: Apache-2.0 */
/* count - so many 4 KiB reads of one layer, for a program that counts.
 *
 * count LAYER READS reads at random, through a port as a server does.  The
 * difference between two runs is what reads cost, without opening and ending.
 */

#include "opened.h"
#include "port.h"

#define PAGE ((size_t)4096)

int
main(int argc, char **argv)
{
    uint64_t state = 1;
    struct obd_fault fault;

    if (argc != 3)
        return 2;
    struct opened o = open_layer("layer", argv[1]);
    struct obd_port *port = need(obd_port_new());
    uint8_t *buf = need(aligned_alloc(PAGE, PAGE));

    obd_port_use(port, o.device, 0);
    for (uint64_t n = strtoull(argv[2], NULL, 10); n > 0; n--) {
        uint64_t at = PAGE * random_below(&state, o.size / PAGE);

        must(obd_port_read(port, at, buf, PAGE, &fault) == OBD_OK, o.name);
    }
    obd_port_end(port);
    return 0;
}
