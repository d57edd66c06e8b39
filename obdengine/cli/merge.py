# SPDX-License-Identifier: Apache-2.0
"""merge - `obd merge`: some layers of an image as one that reads the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from obdengine.cli.images import (
    configuration,
    files_of,
    refuse_overwriting,
    resolved,
)
from obdengine.cli.layers import (
    layer_options,
    layer_settings,
    refuse_codec_options,
    say_layer,
)
from obdengine.cli.output import json_option, progress_bar, progress_option
from obdengine.cli.paths import control_option, path_option
from obdengine.cli.snapshot import export_option, say_reply
from obdengine.errors import UsageError
from obdengine.ops.control import ask
from obdengine.ops.layer_file import LayerOptions
from obdengine.ops.merge import merge as merge_layers

__all__ = ["merge"]


def _run_of(text: str) -> tuple[int, int | None]:
    """Return what "I:J" means; either may be left out."""
    first, colon, end = text.partition(":")
    if not colon or not all(word.isdecimal() for word in (first, end) if word):
        raise UsageError(
            f"{text!r} is not a run of layers", hint="as in 1:3, the layers 1 and 2"
        )
    return int(first or 0), int(end) if end else None


@click.command()
@click.argument("image", nargs=-1, metavar="[IMAGE...]")
@click.argument("target", metavar="DST")
@click.option(
    "--layers",
    type=_run_of,
    default=":",
    metavar="I:J",
    help="From layer I up to J, which is not part of it (all).",
)
@path_option(
    "--config",
    metavar="PATH",
    help="Write a configuration that has the new layer in their place.",
)
@control_option("Tell the server that listens there to do it, and to go on with it.")
@export_option
@layer_settings(uuid="that of the topmost", parent_uuid="that of the bottom one")
@json_option
@progress_option
@click.pass_context
def merge(
    context: click.Context,
    /,
    image: tuple[str, ...],
    target: str,
    layers: tuple[int, int | None],
    config: Path | None,
    control: Path | None,
    export: str,
    as_json: bool,
    progress: bool,
    **layer: Any,
) -> None:
    """Write layers of IMAGE as one to DST; in their place it reads the same.

    Layers are counted from 0 at the bottom; a writable one is not part of it.
    With --control, of a disk in use, which has the new layer from then on.
    """
    refuse_codec_options(context)
    if control:
        if image or config:
            raise UsageError("--control goes without IMAGE and without --config")
        words = _words_of(export, target, layers, layer)
        say_reply(ask(control, "POST", "merge", **words), as_json)
        return
    if export or not image:
        raise UsageError("--export goes with --control, else IMAGE is needed")
    _merge(image, target, layers, config, layer_options(**layer), as_json, progress)


def _merge(
    image: tuple[str, ...],
    target: str,
    layers: tuple[int, int | None],
    config: Path | None,
    options: LayerOptions,
    as_json: bool,
    progress: bool,
) -> None:
    """Merge layers of an image that is not in use, or of which that is unknown."""
    files, paths = files_of(resolved(image)), [configuration(word) for word in image]
    refuse_overwriting(target, [*paths, *files])
    if config:
        refuse_overwriting(config, [target, *files])
    with progress_bar("merge", progress) as show:
        written = merge_layers(
            paths,
            target,
            first=layers[0],
            end=layers[1],
            options=options,
            config=config,
            progress=show,
        )
    say_layer(options, written, config, as_json)


def _words_of(
    export: str, target: str, layers: tuple[int, int | None], layer: dict[str, Any]
) -> dict[str, str]:
    """Return the same for a server."""
    given = {key: value for key, value in layer.items() if value not in (None, "")}
    given |= {"tar": "true" if given.pop("tar") else None, "end": layers[1]}
    where = {"dev_id": export, "to": str(Path(target).absolute())}
    said = {key: str(value) for key, value in given.items() if value is not None}
    return {**where, "first": str(layers[0]), **said}
