# SPDX-License-Identifier: Apache-2.0
"""
convert - `obd convert`: from every kind of image that is known to every other.

Which converter it is follows from the formats and words on both sides; each
is a file of its own, convert_*.py, and has one line in the table here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from obdengine.cli import (
    convert_image,
    convert_local,
    convert_tree,
    convert_turbo,
    convert_vm,
)
from obdengine.cli.convert_job import Converter, Job
from obdengine.cli.layers import layer_settings, refuse_given, say_written
from obdengine.cli.output import json_option, progress_option
from obdengine.errors import UsageError

__all__ = ["CONVERTERS", "convert"]

# The first one whose matches() says so gets the job: the particular before the
# general.
CONVERTERS: list[Converter] = [
    convert_turbo.TO_TURBO,
    convert_image.FROM_IMAGE,
    convert_tree.FROM_TREE,
    convert_vm.EXPORT,
    convert_vm.IMPORT,
    convert_local.TO_RAW,
    convert_local.TO_LAYER,
]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _formats(wanted: str) -> click.Choice[str]:
    names = [name for each in CONVERTERS for name in getattr(each, wanted)]
    return click.Choice(list(dict.fromkeys(names)))


def _options_of_all(command: _Command) -> _Command:
    """Give the command the options that the converters add."""
    for converter in reversed(CONVERTERS):
        for option in reversed(converter.options):
            command = option(command)
    return command


@click.command()
@click.argument("source", nargs=-1, required=True, metavar="SRC...")
@click.argument("target", metavar="DST")
@click.option(
    "-O",
    "target_format",
    type=_formats("targets"),
    default="obd",
    help="Format of DST (obd).",
)
@click.option(
    "-f",
    "source_format",
    type=_formats("sources"),
    help="Format of SRC (found out by default).",
)
@_options_of_all
@layer_settings(uuid="all zero", parent_uuid="that of the base's top")
@json_option
@progress_option
@click.pass_context
def convert(
    context: click.Context,
    /,
    source: tuple[str, ...],
    target: str,
    target_format: str,
    source_format: str | None,
    as_json: bool,
    progress: bool,
    **options: Any,
) -> None:
    """Convert SRC to DST; "-" is standard input or output.

    SRC is a raw disk, an image file of a virtual machine, or an IMAGE (a
    config.v1.json, or layer files with the bottom first). DST is a layer, a
    folder for an image of several, or what -O says.
    """
    job = Job(source, target, source_format, target_format, options, progress, context)
    converter = _converter(job)
    foreign = [name for name in options if name not in converter.takes]
    refuse_given(context, foreign, converter.name)
    facts = converter.run(job)
    if facts is not None:
        say_written(facts, as_json)


def _converter(job: Job) -> Converter:
    for converter in CONVERTERS:
        if converter.matches(job):
            return converter
    raise UsageError(
        f"{job.sources[0]}: there is no way from it to {job.target_format}",
        hint="the formats that are known are in obd convert --help",
    )
