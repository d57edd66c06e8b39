# SPDX-License-Identifier: Apache-2.0
"""layers - how a layer is to be written, and what to say when it has been."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from obdengine.cli.output import json_text, pairs, printable, size_text
from obdengine.errors import UsageError
from obdengine.ops.layer_file import LayerOptions, Written
from obdengine.units import parse_size

__all__ = [
    "LAYER_OPTIONS",
    "layer_facts",
    "layer_options",
    "layer_settings",
    "notice",
    "notices",
    "refuse_codec_options",
    "refuse_given",
    "say_layer",
    "say_written",
]

_STREAM = "-"

# What has a meaning for a compressed layer only.
_CODEC_OPTIONS = ["level", "block_size"]

# What has a meaning for a layer only.
LAYER_OPTIONS = [
    *("compress", "threads", "tar", "uuid", "parent_uuid", "message"),
    *_CODEC_OPTIONS,
]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def layer_settings(uuid: str, parent_uuid: str) -> Callable[[_Command], _Command]:
    """Give a command the options for layer_options(); the texts are defaults."""
    options = [
        *_compression_options(),
        click.option(
            "--tar", is_flag=True, help="Wrap the layer in tar, as registries need."
        ),
        click.option("--uuid", help=f"UUID of the layer ({uuid})."),
        click.option("--parent-uuid", help=f"UUID of the layer below ({parent_uuid})."),
        click.option("--message", default="", help="Text to keep in the layer."),
    ]

    def give(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return give


def _compression_options() -> list[Callable[[Any], Any]]:
    return [
        click.option(
            "--compress",
            type=click.Choice(["lz4", "zstd", "none"]),
            default="lz4",
            help="Compression of the layer (lz4).",
        ),
        click.option("--level", type=int, help="Level of the compression."),
        click.option(
            "--block-size",
            type=parse_size,
            default="4k",
            metavar="SIZE",
            help="Bytes compressed as one block, 4k to 64k (4k).",
        ),
        click.option(
            "--threads",
            type=click.IntRange(1, 256),
            help="Threads (one per processor).",
        ),
    ]


def layer_options(
    *, compress: str, block_size: int, threads: int | None, **others: Any
) -> LayerOptions:
    """Return what the options of layer_settings() say."""
    if threads:
        others["threads"] = threads
    codec = None if compress == "none" else compress
    return LayerOptions(codec=codec, block_size=block_size, **others)


def refuse_codec_options(context: click.Context) -> None:
    """Raise UsageError for options that --compress none leaves without meaning."""
    if context.params["compress"] == "none":
        refuse_given(context, _CODEC_OPTIONS, "--compress none")


def refuse_given(context: click.Context, options: list[str], other: str) -> None:
    """Raise UsageError when any of options was given; other says why."""
    for option in options:
        if context.get_parameter_source(option) is ParameterSource.COMMANDLINE:
            name = option.replace("_", "-")
            raise UsageError(f"--{name} does not go with {other}")


def notices(options: LayerOptions, written: Written) -> Iterator[str]:
    """Yield what a person should know besides the facts."""
    if options.codec and written.block_size != options.block_size:
        yield (
            f"{written.path}: blocks of {written.block_size} bytes, because some data "
            f"is incompressible and {options.block_size} would be too much to read back"
        )


def notice(sentence: str) -> None:
    """Print what a person should know."""
    click.echo(f"obd: note: {printable(sentence)}", err=True)


def layer_facts(written: Written) -> dict[str, Any]:
    """Return the facts of a layer that was written; sizes in bytes."""
    return {
        "filename": written.path,
        "format": "obd",
        "virtual-size": written.virtual_size,
        "file-size": written.size,
        "digest": written.digest,
        "uuid": written.uuid,
        "parent-uuid": written.parent_uuid,
        "entries": written.entries,
        "data-bytes": written.data_size,
        "zero-bytes": written.zero_size,
        "block-size": written.block_size,
        "ratio": round(written.data_size / written.size, 3),
    }


def say_written(facts: dict[str, Any], as_json: bool) -> None:
    """Print facts of what was written, and not into the stream that it is."""
    text = json_text(facts) if as_json else _human(facts)
    click.echo(text, err=facts["filename"] == _STREAM)


def say_layer(
    options: LayerOptions, written: Written, config: Path | None, as_json: bool
) -> None:
    """Print what there is to say of a layer, and of a configuration with it."""
    for sentence in notices(options, written):
        notice(sentence)
    facts = layer_facts(written)
    if config:
        facts["config"] = str(config)
    say_written(facts, as_json)


def _human(facts: dict[str, Any]) -> str:
    rows = [("file", f"{facts['filename']} ({facts['format']})")]
    for key in ("virtual-size", "actual-size", "data-bytes", "zero-bytes", "file-size"):
        if key in facts:
            rows.append((key.replace("-", " "), size_text(facts[key])))
    if "layers" in facts:
        reused = sum(bool(layer.get("reused")) for layer in facts["layers"])
        had = f", {reused} of them converted before" if reused else ""
        rows.append(("layers", f"{len(facts['layers'])}{had}"))
    for key in ("ratio", "entries", "uuid", "parent-uuid", "digest", "config"):
        if facts.get(key) is not None:
            rows.append((key.replace("-", " "), str(facts[key])))
    return pairs(rows)
