# SPDX-License-Identifier: Apache-2.0
"""
transfer - `obd push`, `obd pull`, `obd copy`: images to, from and between stores.

The work is in obdengine.ops: transfer between stores, pull into a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from obdengine import oci
from obdengine.cli.images import name_of
from obdengine.cli.layers import notice
from obdengine.cli.output import (
    json_option,
    json_text,
    pairs,
    progress_bar,
    progress_option,
    size_text,
)
from obdengine.cli.registry import registry_options, service_of
from obdengine.errors import UsageError
from obdengine.ops.ends import open_source, open_target
from obdengine.ops.pull import Pulled, pull_image
from obdengine.ops.transfer import Transferred, copy_image

__all__ = ["copy", "pull", "push"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_platform_option = click.option(
    "--platform",
    metavar="OS/ARCH",
    help="Which image of an index (this machine's).",
)
_all_option = click.option(
    "--all", "every", is_flag=True, help="Every image of an index, and the index."
)

_referrers_option = click.option(
    "--referrers", is_flag=True, help="What refers to the image too, as signatures do."
)


@click.command()
@click.argument("image", nargs=-1, required=True, metavar="IMAGE...")
@click.argument("target", metavar="docker://HOST/NAME[:TAG]")
@_platform_option
@_all_option
@_referrers_option
@registry_options
@json_option
@progress_option
def push(
    image: tuple[str, ...],
    target: str,
    platform: str | None,
    every: bool,
    referrers: bool,
    as_json: bool,
    progress: bool,
    **registry: Any,
) -> None:
    """Send IMAGE to a registry, which blobs that are there are not sent to.

    Layers without the tar wrapper that registries need get it on the way.
    """
    if not target.startswith(f"{oci.REGISTRY}://"):
        raise UsageError(
            f"{target}: not in a registry", hint="docker://HOST/NAME:TAG; or obd copy"
        )
    which = _Which(platform, every, referrers)
    _copy("push", image, target, which, as_json, progress, registry)


@click.command()
@click.argument("source", metavar="docker://HOST/NAME[:TAG]")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@_platform_option
@registry_options
@json_option
@progress_option
def pull(
    source: str,
    folder: Path,
    platform: str | None,
    as_json: bool,
    progress: bool,
    **registry: Any,
) -> None:
    """Fetch an image into a folder: its layers, and a config.v1.json.

    What is there already from a pull that was cut short is not fetched again.
    """
    if not oci.looks_like_reference(source):
        raise UsageError(f"{source}: not a container image", hint="docker://HOST/NAME")
    _pull("pull", source, folder, platform, as_json, progress, registry)


@click.command()
@click.argument("source", nargs=-1, required=True, metavar="SRC...")
@click.argument("target", metavar="DST")
@_platform_option
@_all_option
@_referrers_option
@registry_options
@json_option
@progress_option
def copy(
    source: tuple[str, ...],
    target: str,
    platform: str | None,
    every: bool,
    referrers: bool,
    as_json: bool,
    progress: bool,
    **registry: Any,
) -> None:
    """Copy an image between registries, layouts and folders, bytes unchanged.

    SRC is an IMAGE, DST is docker://HOST/NAME[:TAG], oci:DIR[:TAG] or a folder.
    """
    which = _Which(platform, every, referrers)
    if oci.looks_like_reference(target):
        _copy("copy", source, target, which, as_json, progress, registry)
    elif len(source) > 1 or not oci.looks_like_reference(source[0]):
        raise UsageError("one side must be a container image", hint="else see cp")
    elif every or referrers:
        option = "--all" if every else "--referrers"
        raise UsageError(f"{option} does not go with a folder, which has one image")
    else:
        _pull("copy", source[0], Path(target), platform, as_json, progress, registry)


class _Which(NamedTuple):
    """What of an image is to be copied."""

    platform: str | None
    every: bool
    referrers: bool


def _copy(
    label: str,
    image: Sequence[str],
    target: str,
    which: _Which,
    as_json: bool,
    progress: bool,
    registry: dict[str, Any],
) -> None:
    service = service_of(**registry)
    with ExitStack() as opened, progress_bar(label, progress) as show:
        source = open_source([name_of(word) for word in image], service, opened)
        end = open_target(target, service, opened)
        done = copy_image(
            *(source.store, source.which, end.store, end.which),
            every=which.every,
            referrers=which.referrers,
            platform=_platform(which.platform),
            parallel=service.registry.parallel,
            progress=show,
        )
    for digest in done.left_out:
        notice(f"{digest} is kept elsewhere and was not copied")
    _say(_facts(target, done), as_json)


def _pull(
    label: str,
    source: str,
    folder: Path,
    platform: str | None,
    as_json: bool,
    progress: bool,
    registry: dict[str, Any],
) -> None:
    service = service_of(**registry)
    with ExitStack() as opened, progress_bar(label, progress) as show:
        end = open_source([source], service, opened)
        done = pull_image(
            *(end.store, end.which, folder),
            platform=_platform(platform),
            parallel=service.registry.parallel,
            progress=show,
        )
    _say(_pulled_facts(folder, done), as_json)


def _platform(text: str | None) -> oci.Platform | None:
    return oci.Platform.parse(text) if text else None


def _facts(target: str, done: Transferred) -> dict[str, Any]:
    return {
        "filename": target,
        "digest": done.descriptor.digest,
        "media-type": done.descriptor.media_type,
        "blobs-sent": done.counts["sent"],
        "blobs-mounted": done.counts["mounted"],
        "blobs-there": done.counts["there"],
        "bytes-sent": done.bytes_sent,
        "referrers": done.referrers,
        "left-out": done.left_out,
    }


def _pulled_facts(folder: Path, done: Pulled) -> dict[str, Any]:
    return {
        "filename": str(folder),
        "digest": done.digest,
        "config": str(done.config),
        "layers": [str(file.path) for file in done.files],
        "blobs-fetched": done.fetched,
        "blobs-there": done.there,
        "bytes-fetched": done.bytes_fetched,
    }


def _say(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json_text(facts))
        return
    rows = [("image", facts["filename"]), ("digest", facts["digest"])]
    for key, value in facts.items():
        if key.startswith("bytes-"):
            rows.append((key.replace("-", " "), size_text(value)))
        elif key.startswith("blobs-") or (key == "referrers" and value):
            rows.append((key.replace("-", " "), str(value)))
    if "config" in facts:
        rows.append(("config", facts["config"]))
    click.echo(pairs(rows))
