# SPDX-License-Identifier: Apache-2.0
"""
convert_image - a container image into layers, in a folder or as another image.

The work is in obdengine.ops.build. The new image appears when it is whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

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
from obdengine.cli.registry import REGISTRY_OPTIONS, registry_options, service_of
from obdengine.errors import UsageError
from obdengine.ops.build import DEFAULT_SIZE, BuildOptions, Built, build
from obdengine.ops.ends import open_source, open_target
from obdengine.ops.folder import CONFIG_NAME
from obdengine.ops.host_fs import EXT4, KINDS, HostMake
from obdengine.ops.known import KnownLayers, default_folder
from obdengine.ops.targets import FolderTarget, StoreTarget, Target
from obdengine.service import Service
from obdengine.units import human_size, parse_size

__all__ = [
    "CACHE_OPTIONS",
    "FILE_SYSTEM_OPTIONS",
    "FROM_IMAGE",
    "host_options",
    "image_facts",
    "image_target",
    "known_layers",
    "make_options",
]

_Folder = TypeVar("_Folder")
_Store = TypeVar("_Store")

# How a file system is made, by their names in Python.
FILE_SYSTEM_OPTIONS = ["size", "label", "journal", "features"]

# Where it is noted what was converted before.
CACHE_OPTIONS = ["cache", "use_cache"]

# A layer gets these from the image; and these make sense for one file.
_NOT_OURS = {"uuid", "parent_uuid"}
_OWN_OPTIONS = [
    "platform",
    *CACHE_OPTIONS,
    "referrer",
    "file_system",
    *REGISTRY_OPTIONS,
]

_FILE_SYSTEM = (
    click.option(
        "--size",
        type=parse_size,
        metavar="SIZE",
        help=f"Size of the disk ({human_size(DEFAULT_SIZE).replace(' ', '')}).",
    ),
    click.option("--label", default="", help="Name of the new file system."),
    click.option(
        "--file-system",
        type=click.Choice(KINDS),
        default=EXT4,
        help="Kind of the new file system (ext4); others need root and loop devices.",
    ),
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


def host_options(job: Job) -> HostMake | None:
    """Return what the options say of one that this host makes; None: it is ext4."""
    kind = job.options["file_system"]
    if kind == EXT4:
        return None
    refuse_given(job.context, ["journal", "features"], f"--file-system {kind}")
    return HostMake(kind, job.options["label"])


def _is_image(job: Job) -> bool:
    return job.target_format == "obd" and oci.looks_like_reference(job.sources[0])


def _run(job: Job) -> Facts:
    if len(job.sources) > 1:
        raise UsageError("one container image at a time")
    refuse_codec_options(job.context)
    service = service_of(**job.chosen(REGISTRY_OPTIONS))
    options = _options(job, service)
    platform = job.options["platform"]
    with ExitStack() as opened, progress_bar("convert", job.progress) as show:
        store, which = open_source(job.sources, service, opened)
        image = oci.resolve_image(
            store, which, platform=oci.Platform.parse(platform) if platform else None
        )
        to_store = partial(StoreTarget, fs_type=job.options["file_system"])
        target: Target = image_target(
            job, service, image, opened, FolderTarget, to_store
        )
        built = build(store, image, target, options=options, progress=show)
    for sentence in built.notes:
        notice(sentence)
    return _facts(job, built)


def _options(job: Job, service: Service) -> BuildOptions:
    layer = job.chosen(set(LAYER_OPTIONS) - _NOT_OURS)
    return BuildOptions(
        size=job.options["size"] or DEFAULT_SIZE,
        make=make_options(job),
        host=host_options(job),
        layer=layer_options(**layer, uuid=None, parent_uuid=None),
        known=known_layers(job),
        service=service,
    )


def known_layers(job: Job) -> KnownLayers | None:
    """Return where it is noted what was converted before; None: not wanted."""
    if not job.options["use_cache"]:
        refuse_given(job.context, ["cache"], "--no-cache")
        return None
    return KnownLayers(job.options["cache"] or default_folder())


def image_target(
    job: Job,
    service: Service,
    image: oci.ImageManifest,
    opened: ExitStack,
    to_folder: Callable[[Path], _Folder],
    to_store: Callable[..., _Store],
) -> _Folder | _Store:
    """Return where the job's image goes, made by one of two.

    to_folder: called with a path. to_store: called as NewImage is.
    """
    if not oci.looks_like_reference(job.target):
        refuse_given(job.context, ["referrer"], "a folder")
        if job.target.endswith(".obd") or Path(job.target).is_file():
            raise UsageError(
                f"{job.target}: an image has many layers",
                hint="name a folder, which is made, oci:DIR:TAG or docker://HOST/NAME",
            )
        return to_folder(Path(job.target))
    store, which = open_target(job.target, service, opened)
    folder = Path(oci.parse(job.target).path or tempfile.gettempdir())
    subject = image.descriptor if job.options["referrer"] else None
    return to_store(store, which, folder, subject=subject)


def _facts(job: Job, built: Built) -> Facts:
    rows = [
        {"digest": layer.digest, "size": layer.size, "reused": layer.reused}
        for layer in built.layers
    ]
    return image_facts(job, "obd", built.size, rows)


def image_facts(job: Job, form: str, size: int, layers: list[Facts]) -> Facts:
    """Return what there is to say of a new image of layers, on a disk of size bytes."""
    facts: Facts = {
        "filename": job.target,
        "format": form,
        "virtual-size": size,
        "file-size": sum(layer["size"] for layer in layers),
        "layers": layers,
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
        click.option(
            "--referrer",
            is_flag=True,
            help="Make the new image refer to the one that it is made from.",
        ),
        registry_options,
    ),
)
