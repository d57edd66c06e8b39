# SPDX-License-Identifier: Apache-2.0
"""
convert_turbo - a container image into TurboOCI layers: its own stay as they are.

The work is in obdengine.ops.turbo_build. The new image appears when it is whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from obdengine import oci
from obdengine.cli.convert_image import FILE_SYSTEM_OPTIONS, make_options
from obdengine.cli.convert_job import Converter, Facts, Job
from obdengine.cli.layers import notice
from obdengine.cli.output import progress_bar
from obdengine.errors import UsageError
from obdengine.ops.folder import CONFIG_NAME
from obdengine.ops.turbo_build import TurboBuilt, TurboOptions, build_turbo
from obdengine.ops.turbo_targets import TurboFolder, TurboStore, TurboTarget

__all__ = ["TO_TURBO"]


def _is_turbo(job: Job) -> bool:
    return bool(job.options["turbo"])


def _run(job: Job) -> Facts:
    if len(job.sources) > 1:
        raise UsageError("one container image at a time")
    if job.target_format != "obd" or not oci.looks_like_reference(job.sources[0]):
        raise UsageError(
            f"{job.sources[0]}: --turbo is for a container image",
            hint="name it as oci:DIR:TAG, or as the archive that it is in",
        )
    size, platform = job.options["size"], job.options["platform"]
    options = TurboOptions(make=make_options(job))
    if size:
        options = TurboOptions(size, options.make)
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
        built = build_turbo(store, image, target, options=options, progress=show)
    for sentence in built.notes:
        notice(sentence)
    return _facts(job, built)


@contextmanager
def _target(job: Job) -> Iterator[TurboTarget]:
    if not oci.looks_like_reference(job.target):
        if Path(job.target).is_file():
            raise UsageError(
                f"{job.target}: an image has many layers",
                hint="name a folder, which is made, or oci:DIR:TAG",
            )
        yield TurboFolder(Path(job.target))
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
        yield TurboStore(store, reference.which, folder)


def _facts(job: Job, built: TurboBuilt) -> Facts:
    facts: Facts = {
        "filename": job.target,
        "format": "turbo",
        "virtual-size": built.size,
        "file-size": sum(layer.size for layer in built.layers),
        "layers": [
            {
                "digest": layer.digest,
                "size": layer.size,
                "index-size": layer.index_size,
                "target-digest": layer.target_digest,
                "target-size": layer.target_size,
            }
            for layer in built.layers
        ],
    }
    if not oci.looks_like_reference(job.target):
        facts["config"] = str(Path(job.target) / CONFIG_NAME)
    return facts


TO_TURBO = Converter(
    name="--turbo",
    matches=_is_turbo,
    run=_run,
    takes=frozenset({"turbo", "platform", *FILE_SYSTEM_OPTIONS}),
    options=(
        click.option(
            "--turbo",
            is_flag=True,
            help="Leave a container image's layers as they are, and point at them.",
        ),
    ),
)
