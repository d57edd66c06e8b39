# SPDX-License-Identifier: Apache-2.0
"""merge - `obd merge`: some layers of an image as one that reads the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from obdengine.cli.images import (
    configuration,
    files_of,
    image_argument,
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
from obdengine.cli.paths import path_option
from obdengine.errors import UsageError
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
@image_argument
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
    as_json: bool,
    progress: bool,
    **layer: Any,
) -> None:
    """Write layers of IMAGE as one to DST; in their place it reads the same.

    Layers are counted from 0 at the bottom; a writable one is not part of it.
    """
    refuse_codec_options(context)
    files, paths = files_of(resolved(image)), [configuration(word) for word in image]
    refuse_overwriting(target, [*paths, *files])
    if config:
        refuse_overwriting(config, [target, *files])
    options = layer_options(**layer)
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
