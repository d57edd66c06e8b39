# SPDX-License-Identifier: Apache-2.0
"""test_negotiation - what the plugin tells clients: sizes, abilities, extents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.nbd import programs
from tests.running import Export, Ran
from tests.stacks import SIZE, Image
from tests.tools import requires
from tests.twins import writer

Served = Callable[..., Export]

HOLE_AND_ZERO = 3

pytestmark = requires("nbdinfo")


def test_abilities(served: Served, image: Image) -> None:
    facts = programs.facts(served(f"config={image.config}").uri)
    assert facts["export-size"] == SIZE
    assert facts["is_read_only"] is True
    assert facts["can_multi_conn"] is True
    assert facts["can_cache"] is True
    assert facts["contexts"] == ["base:allocation"]
    assert facts["block_size_minimum"] == 1
    assert facts["block_size_preferred"] == 65536
    assert facts["block_size_maximum"] == 32 << 20


def test_preferred_block_size_is_at_least_a_page(served: Served, image: Image) -> None:
    facts = programs.facts(served(f"config={image.layers[0]}").uri)
    assert facts["block_size_preferred"] == 4096


def spread(extents: list[tuple[int, int, int]]) -> list[bool]:
    """Return for each sector whether it is said to be a hole."""
    return [
        kind == HOLE_AND_ZERO
        for _, length, kind in extents
        for _ in range(length // 512)
    ]


def test_extents_are_the_truth(served: Served, image: Image) -> None:
    extents = programs.holes(served(f"config={image.config}").uri)
    assert spread(extents) == [zero for _, zero in image.origins()]
    assert {kind for _, _, kind in extents} == {0, HOLE_AND_ZERO}
    for offset, length, kind in extents:
        assert kind == 0 or not any(image.disk[offset : offset + length])


def test_extents_agree_with_obd_map(
    served: Served, image: Image, obd: Callable[..., Ran]
) -> None:
    records = obd("map", "--output=json", image.config).json()
    mapped = [r["zero"] for r in records for _ in range(r["length"] // 512)]
    assert spread(programs.holes(served(f"config={image.config}").uri)) == mapped


@requires("qemu-img")
def test_extents_agree_with_qemu_img_map(served: Served, image: Image) -> None:
    uri = served(f"config={image.config}").uri
    found = json.loads(
        programs.output("qemu-img", "map", "--output=json", "-f", "raw", uri)
    )
    # qemu rounds what it reports up to whole sectors, so the last one is odd too.
    zeroes = [e["zero"] for e in found for _ in range(e["length"] // 512)]
    assert zeroes == [zero for _, zero in image.origins()]


@requires("python3-libnbd")
def test_one_extent_when_one_is_asked_for(served: Served, image: Image) -> None:
    script = (
        "h.add_meta_context('base:allocation')\n"
        "h.connect_uri(sys.argv[1])\n"
        "def show(context, offset, entries, error):\n"
        "    print(len(entries) // 2)\n"
        "h.block_status(h.get_size(), 0, show, flags=nbd.CMD_FLAG_REQ_ONE)\n"
        "h.block_status(h.get_size(), 0, show)\n"
    )
    one, many = programs.libnbd(script, served(f"config={image.config}").uri).split()
    assert int(one) == 1
    assert int(many) > 1


def test_many_extents_come_in_several_replies(served: Served, tmp_path: Path) -> None:
    """More extents than one reply holds: the client asks again, nothing is lost."""
    layer = tmp_path / "many.obd"
    runs = [writer.Run(16 * n, bytes([1]) * 512) for n in range(10_000)]
    layer.write_bytes(writer.lsmt(runs, 16 * 512 * 10_000))
    extents = programs.holes(served(f"config={layer}").uri)
    assert len(extents) == 20_000
    assert sum(length for _, length, kind in extents if kind == 0) == 512 * 10_000
