# SPDX-License-Identifier: Apache-2.0
"""commit - `obd commit`: an image's writable layer as a read-only one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from obdengine.cli.images import (
    configuration,
    files_of,
    refuse_overwriting,
    resolved,
    writable_argument,
)
from obdengine.cli.layers import (
    layer_options,
    layer_settings,
    refuse_codec_options,
    say_layer,
)
from obdengine.cli.output import json_option, progress_bar, progress_option
from obdengine.cli.paths import path_option
from obdengine.ops.commit import commit as commit_upper

__all__ = ["commit"]


@click.command()
@writable_argument
@click.argument("target", metavar="DST")
@path_option(
    "--config",
    metavar="PATH",
    help="Write a configuration of the layers and the new one.",
)
@layer_settings(uuid="a new one", parent_uuid="that of the top layer below")
@json_option
@progress_option
@click.pass_context
def commit(
    context: click.Context,
    /,
    image: str,
    target: str,
    config: Path | None,
    as_json: bool,
    progress: bool,
    **layer: Any,
) -> None:
    """Write the writable layer of IMAGE as a layer to DST; "-" is standard output.

    IMAGE stays as it is, unless --config names it.
    """
    refuse_codec_options(context)
    files, path = files_of(resolved([image])), configuration(image)
    refuse_overwriting(target, [path, *files])
    if config:
        refuse_overwriting(config, [target, *files])
    options = layer_options(**layer)
    with progress_bar("commit", progress) as show:
        written = commit_upper(
            path, target, options=options, config=config, progress=show
        )
    say_layer(options, written, config, as_json)
