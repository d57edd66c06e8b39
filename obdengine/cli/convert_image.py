# SPDX-License-Identifier: Apache-2.0
"""
convert_image - a container image into layers, in a folder or as another image.

The work is in obdengine.ops.build. The new image appears when it is whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from obdengine import ext4, oci
from obdengine.cli.convert_job import Converter, Facts, Job
from obdengine.cli.layers import (
    LAYER_OPTIONS,
    layer_options,
    notice,
    refuse_codec_options,
    refuse_given,
)
from obdengine.cli.output import progress_bar
from obdengine.errors import UsageError
from obdengine.ops.build import DEFAULT_SIZE, BuildOptions, Built, build
from obdengine.ops.folder import CONFIG_NAME
from obdengine.ops.known import KnownLayers, default_folder
from obdengine.ops.targets import FolderTarget, StoreTarget, Target
from obdengine.units import human_size, parse_size

__all__ = ["FILE_SYSTEM_OPTIONS", "FROM_IMAGE", "make_options"]

# How a file system is made, by their names in Python.
FILE_SYSTEM_OPTIONS = ["size", "label", "journal", "features"]

# A layer gets these from the image; and these make sense for one file.
_NOT_OURS = {"uuid", "parent_uuid"}
_OWN_OPTIONS = ["platform", "cache", "use_cache"]

_FILE_SYSTEM = (
    click.option(
        "--size",
        type=parse_size,
        metavar="SIZE",
        help=f"Size of the disk ({human_size(DEFAULT_SIZE).replace(' ', '')}).",
    ),
    click.option("--label", default="", help="Name of the new file system."),
    click.option(
        "--journal",
        is_flag=True,
        help="Give the new file system a journal, for disks that machines boot from.",
    ),
    click.option(
        "--features",
        default="",
        metavar="LIST",
        help="Features of the new file system, as mke2fs -O has them.",
    ),
)


def make_options(job: Job) -> ext4.MakeOptions:
    """Return what the options say of a new file system."""
    words = [word for word in job.options["features"].split(",") if word]
    return ext4.MakeOptions(
        label=job.options["label"],
        journal=job.options["journal"],
        features=tuple(words),
    )


def _is_image(job: Job) -> bool:
    return job.target_format == "obd" and oci.looks_like_reference(job.sources[0])


def _run(job: Job) -> Facts:
    if len(job.sources) > 1:
        raise UsageError("one container image at a time")
    refuse_codec_options(job.context)
    known = _known(job)
    options = BuildOptions(
        size=job.options["size"] or DEFAULT_SIZE,
        make=make_options(job),
        layer=layer_options(
            **job.chosen(set(LAYER_OPTIONS) - _NOT_OURS), uuid=None, parent_uuid=None
        ),
        known=known,
    )
    platform = job.options["platform"]
    with ExitStack() as opened, progress_bar("convert", job.progress) as show:
        reference = oci.parse(job.sources[0])
        store = oci.open_store(reference)
        opened.callback(store.close)
        image = oci.resolve_image(
            store,
            reference.which,
            platform=oci.Platform.parse(platform) if platform else None,
        )
        target = opened.enter_context(_target(job))
        built = build(store, image, target, options=options, progress=show)
    for sentence in built.notes:
        notice(sentence)
    return _facts(job, built)


def _known(job: Job) -> KnownLayers | None:
    if not job.options["use_cache"]:
        refuse_given(job.context, ["cache"], "--no-cache")
        return None
    return KnownLayers(job.options["cache"] or default_folder())


@contextmanager
def _target(job: Job) -> Iterator[Target]:
    if not oci.looks_like_reference(job.target):
        if job.target.endswith(".obd") or Path(job.target).is_file():
            raise UsageError(
                f"{job.target}: an image has many layers",
                hint="name a folder, which is made, or oci:DIR:TAG",
            )
        yield FolderTarget(Path(job.target))
        return
    reference = oci.parse(job.target)
    if reference.digest:
        raise UsageError(f"{job.target}: the digest of an image follows from it")
    with ExitStack() as opened:
        store = oci.open_store(reference, create=True)
        opened.callback(store.close)
        folder = Path(reference.path)
        if not folder.is_dir():
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        yield StoreTarget(store, reference.which, folder)


def _facts(job: Job, built: Built) -> Facts:
    facts: Facts = {
        "filename": job.target,
        "format": "obd",
        "virtual-size": built.size,
        "file-size": sum(layer.size for layer in built.layers),
        "layers": [
            {"digest": layer.digest, "size": layer.size, "reused": layer.reused}
            for layer in built.layers
        ],
    }
    if not oci.looks_like_reference(job.target):
        facts["config"] = str(Path(job.target) / CONFIG_NAME)
    return facts


FROM_IMAGE = Converter(
    name="a container image",
    matches=_is_image,
    run=_run,
    takes=frozenset({*LAYER_OPTIONS, *FILE_SYSTEM_OPTIONS, *_OWN_OPTIONS} - _NOT_OURS),
    options=(
        *_FILE_SYSTEM,
        click.option(
            "--platform",
            metavar="OS/ARCH",
            help="Which image, where there is one for each (that of this machine).",
        ),
        click.option(
            "--cache",
            type=click.Path(file_okay=False, path_type=Path),
            metavar="DIR",
            help="Where it is noted which layers were converted before.",
        ),
        click.option(
            "--no-cache",
            "use_cache",
            is_flag=True,
            default=True,
            flag_value=False,
            help="Convert every layer, also one that was converted before.",
        ),
    ),
)
