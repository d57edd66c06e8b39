# SPDX-License-Identifier: Apache-2.0
"""
convert_turbo - a container image into TurboOCI layers: its own stay as they are.

The work is in obdengine.ops.turbo_build. The new image appears when it is whole.
"""

from __future__ import annotations

from contextlib import ExitStack

import click

from obdengine import oci
from obdengine.cli.convert_image import (
    CACHE_OPTIONS,
    FILE_SYSTEM_OPTIONS,
    image_facts,
    image_target,
    known_layers,
    make_options,
)
from obdengine.cli.convert_job import Converter, Facts, Job
from obdengine.cli.layers import notice
from obdengine.cli.output import progress_bar
from obdengine.cli.registry import REGISTRY_OPTIONS, service_of
from obdengine.errors import UsageError
from obdengine.ops.build import DEFAULT_SIZE
from obdengine.ops.ends import open_source
from obdengine.ops.turbo_build import TurboBuilt, TurboOptions, build_turbo
from obdengine.ops.turbo_targets import TurboFolder, TurboStore, TurboTarget

__all__ = ["TO_TURBO"]

_OWN_OPTIONS = ["turbo", "platform", "referrer", *CACHE_OPTIONS]


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
    service = service_of(**job.chosen(REGISTRY_OPTIONS))
    platform = job.options["platform"]
    options = TurboOptions(
        size=job.options["size"] or DEFAULT_SIZE,
        make=make_options(job),
        known=known_layers(job),
    )
    with ExitStack() as opened, progress_bar("convert", job.progress) as show:
        store, which = open_source(job.sources, service, opened)
        image = oci.resolve_image(
            store, which, platform=oci.Platform.parse(platform) if platform else None
        )
        target: TurboTarget = image_target(
            job, service, image, opened, TurboFolder, TurboStore
        )
        built = build_turbo(store, image, target, options=options, progress=show)
    for sentence in built.notes:
        notice(sentence)
    return _facts(job, built)


def _facts(job: Job, built: TurboBuilt) -> Facts:
    rows = [
        {
            "digest": layer.digest,
            "size": layer.size,
            "index-size": layer.index_size,
            "target-digest": layer.target_digest,
            "target-size": layer.target_size,
            "reused": layer.reused,
        }
        for layer in built.layers
    ]
    return image_facts(job, "turbo", built.size, rows)


TO_TURBO = Converter(
    name="--turbo",
    matches=_is_turbo,
    run=_run,
    takes=frozenset({*_OWN_OPTIONS, *FILE_SYSTEM_OPTIONS, *REGISTRY_OPTIONS}),
    options=(
        click.option(
            "--turbo",
            is_flag=True,
            help="Leave a container image's layers as they are, and point at them.",
        ),
    ),
)
