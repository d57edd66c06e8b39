# SPDX-License-Identifier: Apache-2.0
"""info - `obd info`: what an image is made of, without reading its data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

import obdengine
from obdengine.cli.images import image_argument, layer_files
from obdengine.cli.output import json_option, json_text, pairs, size_text
from obdengine.device import Device
from obdengine.layer import Layer
from obdengine.units import human_size

__all__ = ["facts", "info"]


@click.command()
@image_argument
@json_option
def info(image: tuple[str, ...], as_json: bool) -> None:
    """Show the size, the layers and the index of an image."""
    files = layer_files(image)
    with obdengine.open(files) as device:
        found = facts(image, files, device)
    click.echo(json_text(found) if as_json else _human(found))


def facts(
    image: Sequence[str], files: Sequence[Path], device: Device
) -> dict[str, Any]:
    """Return what there is to say; sizes in bytes, layers bottom to top."""
    layers = [
        {"layer": number, **_layer_facts(path, layer)}
        for number, (path, layer) in enumerate(zip(files, device.layers, strict=True))
    ]
    return {
        "filename": image[-1],
        "format": "obd",
        "virtual-size": device.size,
        "actual-size": sum(layer["actual-size"] for layer in layers),
        "layers": layers,
        "index": {"entries": device.entries, "memory": device.memory},
    }


def _layer_facts(path: Path, layer: Layer) -> dict[str, Any]:
    blob, status = layer.blob, path.stat()
    return {
        "filename": str(path),
        "format": "zfile" if blob.codec else "lsmt",
        "state": layer.kind,
        "virtual-size": layer.virtual_size,
        "actual-size": status.st_blocks * 512,
        "file-size": status.st_size,
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
    }


def _human(found: dict[str, Any]) -> str:
    index, count = found["index"], len(found["layers"])
    head = [
        ("image", found["filename"]),
        ("format", f"obd, {count} layer{'s' if count > 1 else ''}"),
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
    return "\n\n".join(parts)


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


def _stored_as(layer: dict[str, Any]) -> str:
    text = "plain LSMT"
    if layer["codec"]:
        block = human_size(layer["block-size"])
        crc = "with" if layer["crc"] else "without"
        text = f"ZFile {layer['codec']}, {block} blocks {crc} crc"
    if layer["tar"]:
        text += ", in tar" if layer["tar"] == "pax" else f", in tar ({layer['tar']})"
    return f"{text}, sealed in place" if layer["state"] == "sealed" else text


def _entries_text(layer: dict[str, Any]) -> str:
    padding = layer["padding-entries"]
    return f"{layer['entries']}" + (f" (and {padding} of padding)" if padding else "")
