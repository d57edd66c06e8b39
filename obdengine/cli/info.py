# SPDX-License-Identifier: Apache-2.0
"""info - `obd info`: what an image is made of, without reading its data."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import click

from obdengine.cli.images import image_argument, look
from obdengine.cli.output import json_option, json_text, pairs, size_text
from obdengine.device import Device
from obdengine.layer import Layer, Upper
from obdengine.units import SECTOR, human_size

__all__ = ["facts", "info"]


@click.command()
@image_argument
@json_option
def info(image: tuple[str, ...], as_json: bool) -> None:
    """Show the size, the layers and the index of an image."""
    device, busy = look(image)
    with device:
        found = facts(image, device, busy)
    click.echo(json_text(found) if as_json else _human(found))


def facts(image: Sequence[str], device: Device, busy: str | None) -> dict[str, Any]:
    """Return what there is to say; sizes in bytes, layers bottom to top.

    busy: who is writing to the image, or None.
    """
    layers = [
        {"layer": number, **_layer_facts(layer)}
        for number, layer in enumerate(device.layers)
    ]
    upper = _upper_facts(device.upper, busy) if device.upper else None
    parts = [*layers, *([upper] if upper else [])]
    return {
        "filename": image[-1],
        "format": "obd",
        "virtual-size": device.size,
        "actual-size": sum(part["actual-size"] for part in parts),
        "layers": layers,
        "upper": upper,
        "index": {"entries": device.entries, "memory": device.memory},
    }


def _layer_facts(layer: Layer) -> dict[str, Any]:
    # Of a layer that is elsewhere, the descriptor is that of the cache.
    blob, status = layer.blob, os.fstat(layer.blob.resident.fd)
    return {
        "filename": layer.name,
        "format": "zfile" if blob.codec else "lsmt",
        "state": layer.kind,
        "virtual-size": layer.virtual_size,
        "actual-size": status.st_blocks * 512,
        "file-size": blob.source.size,
        "tar": blob.wrapper and blob.wrapper.removeprefix("tar-"),
        "codec": blob.codec,
        "block-size": blob.block_size,
        "crc": bool(blob.verify),
        "stream-size": blob.size,
        "uuid": layer.uuid,
        "parent-uuid": layer.parent_uuid,
        "message": layer.message,
        "entries": layer.entries,
        "padding-entries": layer.padding,
        "data-bytes": layer.data_size,
        "zero-bytes": layer.zero_size,
        "target": _target_facts(layer),
    }


def _target_facts(layer: Layer) -> dict[str, Any] | None:
    """Return what there is to say of the file that a TurboOCI layer points at."""
    target = layer.target
    if target is None:
        return None
    return {
        "filename": target.name,
        "file-size": target.source.size,
        "stream-size": target.size,
        "codec": target.codec,
        "index-filename": target.index,
        "index-version": (2 if target.members else 1) if target.index else None,
        "spans": target.blocks,
        "crc": target.summed,
        "digest": target.digest or None,
        "data-bytes": layer.target_data_size,
    }


def _upper_facts(upper: Upper, busy: str | None) -> dict[str, Any]:
    log, files = upper.facts(), [f for f in (upper.data, upper.index) if f]
    statuses = [file.path.stat() for file in files]
    stored = log.stored * SECTOR
    # In sparse form every sector has its own place.
    taken = statuses[0].st_size - 4096 if upper.form == "append" else stored
    return {
        "filename": upper.data.name,
        "index-filename": upper.index.name if upper.index else None,
        "form": upper.form,
        "state": "writable",
        "busy": busy,
        "virtual-size": upper.virtual_size,
        "actual-size": sum(status.st_blocks * 512 for status in statuses),
        "file-size": statuses[0].st_size,
        "uuid": upper.uuid,
        "parent-uuid": upper.parent_uuid,
        "segments": log.segments,
        "records": log.records,
        "padding-records": log.padding,
        "damaged-records": log.damaged,
        "torn-bytes": upper.torn,
        "guessed": upper.guessed,
        "data-bytes": stored,
        "zero-bytes": sum(s.length for s in upper.core.segments() if s.zeroed) * SECTOR,
        "garbage-bytes": max(taken - stored, 0),
    }


def _human(found: dict[str, Any]) -> str:
    index, count = found["index"], len(found["layers"])
    head = [
        ("image", found["filename"]),
        ("format", _format_text(found)),
        ("virtual size", size_text(found["virtual-size"])),
        ("disk size", size_text(found["actual-size"])),
        ("index", f"{index['entries']} entries, {size_text(index['memory'])}"),
    ]
    parts = [pairs(head)]
    for layer in found["layers"]:
        title = f"layer {layer['layer']}"
        if count > 1 and layer["layer"] in (0, count - 1):
            title += " (top)" if layer["layer"] else " (bottom)"
        parts.append(f"{title}\n{pairs(_layer_rows(layer), indent='    ')}")
    if found["upper"]:
        rows = pairs(_upper_rows(found["upper"]), indent="    ")
        parts.append(f"writable layer\n{rows}")
    return "\n\n".join(parts)


def _format_text(found: dict[str, Any]) -> str:
    count = len(found["layers"])
    text = f"obd, {count} layer{'' if count == 1 else 's'}"
    return f"{text} and a writable one" if found["upper"] else text


def _layer_rows(layer: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "file", layer["filename"]
    yield "stored as", _stored_as(layer)
    yield "file size", size_text(layer["file-size"])
    yield "virtual size", size_text(layer["virtual-size"])
    yield "uuid", layer["uuid"] or "none"
    yield "parent uuid", layer["parent-uuid"] or "none"
    if layer["message"]:
        yield "message", layer["message"]
    yield "entries", _entries_text(layer)
    yield "data", size_text(layer["data-bytes"])
    yield "zeroed", size_text(layer["zero-bytes"])
    if layer["target"]:
        yield from _target_rows(layer["target"])


def _target_rows(target: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "target", target["filename"]
    yield "target is", _target_is(target)
    yield "target size", size_text(target["file-size"])
    if target["index-filename"]:
        yield "target index", target["index-filename"]
    yield "data in target", size_text(target["data-bytes"])


def _target_is(target: dict[str, Any]) -> str:
    if not target["codec"]:
        return "a tar"
    crc = "with" if target["crc"] else "without"
    return (
        f"a tar of {size_text(target['stream-size'])} in {target['codec']}, "
        f"{target['spans']} spans {crc} crc"
    )


def _stored_as(layer: dict[str, Any]) -> str:
    text = "plain LSMT"
    if layer["codec"]:
        block = human_size(layer["block-size"])
        crc = "with" if layer["crc"] else "without"
        text = f"ZFile {layer['codec']}, {block} blocks {crc} crc"
    if layer["tar"]:
        text += ", in tar" if layer["tar"] == "pax" else f", in tar ({layer['tar']})"
    if layer["target"]:
        text = f"TurboOCI layer, {text}"
    return f"{text}, sealed in place" if layer["state"] == "sealed" else text


def _upper_rows(upper: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "file", upper["filename"]
    yield "index file", upper["index-filename"] or "none, the map was guessed"
    yield "stored as", f"log, {upper['form']} form"
    if upper["busy"]:
        yield "state", upper["busy"]
    yield "file size", size_text(upper["file-size"])
    yield "virtual size", size_text(upper["virtual-size"])
    yield "uuid", upper["uuid"] or "none"
    yield "parent uuid", upper["parent-uuid"] or "none"
    yield "entries", f"{upper['segments']}, of {_records_text(upper)}"
    yield "data", size_text(upper["data-bytes"])
    yield "zeroed", size_text(upper["zero-bytes"])
    yield "garbage", size_text(upper["garbage-bytes"])


def _records_text(upper: dict[str, Any]) -> str:
    text = f"{upper['records']} records"
    if upper["padding-records"]:
        text += f", {upper['padding-records']} of padding"
    if upper["damaged-records"] or upper["torn-bytes"]:
        text += f", {upper['damaged-records']} damaged (see obd check)"
    return text


def _entries_text(layer: dict[str, Any]) -> str:
    padding = layer["padding-entries"]
    return f"{layer['entries']}" + (f" (and {padding} of padding)" if padding else "")
