# SPDX-License-Identifier: Apache-2.0
"""
convert_vm - image files of virtual machines into layers, and back.

Also what only makes sense for a disk: one partition of it, a folder for the
result, a comparison at the end. The work is in obdengine.ops.vm_*.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from obdengine.cli import convert_local as local
from obdengine.cli.convert_job import STREAM, Converter, Facts, Job
from obdengine.cli.images import refuse_overwriting, resolved
from obdengine.cli.layers import (
    LAYER_OPTIONS,
    layer_facts,
    layer_options,
    notice,
    notices,
    refuse_codec_options,
)
from obdengine.cli.output import Progress, json_text, pairs, progress_bar, size_text
from obdengine.device import Device
from obdengine.errors import UsageError
from obdengine.ops.disks import Disk, RawDisk, StackDisk
from obdengine.ops.folder import CONFIG_NAME
from obdengine.ops.layer_file import LayerOptions, Written
from obdengine.ops.partitions import partition
from obdengine.ops.root_partition import root_partition
from obdengine.ops.vm_disks import Level, flat_level, levels_of
from obdengine.ops.vm_export import (
    CHAINED,
    TARGETS,
    ExportOptions,
    export_chain,
    export_file,
)
from obdengine.ops.vm_images import (
    FORMATS,
    VmFile,
    Wanted,
    chain_of,
    is_vm_image,
    snapshot_of,
)
from obdengine.ops.vm_import import Part, import_file, import_folder

__all__ = ["EXPORT", "IMPORT"]

# What has a meaning for a disk that comes in.
_IMPORT_ONLY = ("flatten", "snapshot", "secret", "backing_format", "partition")

_EXPORT_ONLY = ("create_options", "compressed", "chain")


def _secret(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> Path | None:
    """Return the path in file=PATH, as a secret object of qemu has it."""
    if value is None:
        return None
    key, _, path = value.partition("=")
    if key != "file" or not path:
        raise click.BadParameter("it must be file=PATH")
    if not Path(path).is_file():
        raise click.BadParameter(f"{path}: no such file")
    return Path(path)


# -- In


def _is_import(job: Job) -> bool:
    if job.target_format != "obd":
        return False
    if job.source_format in FORMATS or _is_folder(job):
        return True
    if any(job.options[name] for name in (*_IMPORT_ONLY, "verify")):
        return True
    only = len(job.sources) == 1 and job.sources[0] != STREAM
    return only and job.source_format is None and is_vm_image(Path(job.sources[0]))


def _is_folder(job: Job) -> bool:
    """Tell whether the target is to be a folder with an image in it."""
    if job.target == STREAM:
        return False
    return job.target.endswith("/") or Path(job.target).is_dir()


def _import(job: Job) -> Facts | None:
    _refuse_import(job)
    options = layer_options(**job.chosen(LAYER_OPTIONS))
    with ExitStack() as stack, progress_bar("convert", job.progress) as show:
        base = _base(job, stack)
        levels, whole = _levels(job, stack)
        part = _part(job, whole)
        common: dict[str, Any] = {
            "part": part,
            "options": options,
            "checked": job.options["verify"],
            "progress": show,
        }
        if _is_chain_target(job, levels):
            folder = Path(job.target)
            written = import_folder(levels, folder, **common)
            _say_folder(job, folder, levels, written, options)
            return None
        one = import_file(whole, job.target, base=base, **common)
    for sentence in notices(options, one):
        notice(sentence)
    return layer_facts(one)


def _base(job: Job, stack: ExitStack) -> Device | None:
    words = job.options["base"]
    return local.open_stack(stack, words, job.target) if words else None


def _is_chain_target(job: Job, levels: list[Level]) -> bool:
    """Tell whether the result is a folder; a new name without a suffix is one."""
    if _is_folder(job):
        return True
    path = Path(job.target)
    named = job.target != STREAM and not path.exists() and not path.suffix
    if named and is_vm_image(levels[-1].path):
        return True
    if len(levels) > 1:
        notice(f"{job.target}: {len(levels)} files as one layer; a folder gets each")
    return False


def _refuse_import(job: Job) -> None:
    refuse_codec_options(job.context)
    if job.options["verify"] and job.target == STREAM:
        raise UsageError("--verify needs a file, to read it again")
    if STREAM in job.sources and job.options["verify"]:
        raise UsageError("--verify needs a source that can be read again")
    if job.options["base"] and _is_folder(job):
        raise UsageError("--base goes with one layer as DST, not with a folder")


def _levels(job: Job, stack: ExitStack) -> tuple[list[Level], Level]:
    """Return what becomes a layer each, and the level that is all of it."""
    options = job.options
    if _is_vm(job):
        path = Path(job.sources[0])
        refuse_overwriting(job.target, job.sources)
        wanted = Wanted(job.source_format, options["secret"], options["backing_format"])
        chain = chain_of(path, wanted)
        refuse_overwriting(job.target, [file.path for file in chain])
        return _chain_levels(job, chain)
    for name in ("flatten", "snapshot", "secret", "backing_format"):
        if options[name]:
            shown = name.replace("_", "-")
            raise UsageError(f"--{shown} goes with image files of virtual machines")
    level = _local_level(job, stack)
    return [level], level


def _is_vm(job: Job) -> bool:
    if job.source_format:
        return job.source_format in FORMATS
    only = len(job.sources) == 1 and job.sources[0] != STREAM
    return only and is_vm_image(Path(job.sources[0]))


def _chain_levels(job: Job, chain: list[VmFile]) -> tuple[list[Level], Level]:
    snapshot, secret = job.options["snapshot"], job.options["secret"]
    number = snapshot_of(chain[-1], snapshot) if snapshot else None
    whole = flat_level(chain, snapshot=number, secret=secret)
    if job.options["flatten"]:
        return [whole], whole
    return levels_of(chain, snapshot=number, secret=secret), whole


def _local_level(job: Job, stack: ExitStack) -> Level:
    """Return the level that a raw disk or a stack is."""
    disk: RawDisk | StackDisk
    if local.is_stack(job):
        device = local.open_stack(stack, job.sources, job.target)
        disk = StackDisk(device)
    else:
        refuse_overwriting(job.target, job.sources)
        sure = job.source_format is not None
        disk = stack.enter_context(RawDisk(job.sources[0], any_content=sure))
        for sentence in local.odd_size(disk):
            notice(sentence)

    @contextmanager
    def open_(_whole: bool) -> Iterator[Disk]:
        yield disk

    return Level(Path(job.sources[-1]), open_)


def _part(job: Job, level: Level) -> Part | None:
    """Return the part of the disk that --partition means."""
    wanted = job.options["partition"]
    if wanted is None:
        return None
    with level.open(True) as disk:
        if wanted == "root":
            found = root_partition(disk)
        else:
            found = partition(disk, int(wanted))
    return Part(found.offset, found.size)


def _partition(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> str | None:
    if value is not None and value != "root" and not value.isdecimal():
        raise click.BadParameter(f"{value!r} is neither a number nor root")
    return value


def _say_folder(
    job: Job,
    folder: Path,
    levels: list[Level],
    written: list[Written],
    options: LayerOptions,
) -> None:
    for sentence in (text for one in written for text in notices(options, one)):
        notice(sentence)
    # Levels that end before a partition begins have no layer.
    sources = [str(level.path) for level in levels][-len(written) :]
    facts: Facts = {
        "filename": str(folder / CONFIG_NAME),
        "format": "obd",
        "virtual-size": written[-1].virtual_size,
        "layers": [
            {"source": source, **layer_facts(one)}
            for source, one in zip(sources, written, strict=True)
        ],
    }
    if job.context.params["as_json"]:
        click.echo(json_text(facts))
        return
    rows = [("config", facts["filename"])]
    rows += [("virtual size", size_text(written[-1].virtual_size))]
    rows += [
        (Path(one.path).name, f"{size_text(one.size)}, from {source}")
        for source, one in zip(sources, written, strict=True)
    ]
    click.echo(pairs(rows))


IMPORT = Converter(
    name="an image of a virtual machine",
    matches=_is_import,
    run=_import,
    takes=frozenset(["base", "verify", *_IMPORT_ONLY, *LAYER_OPTIONS]),
    options=(
        click.option(
            "--flatten", is_flag=True, help="Make one layer of a chain of image files."
        ),
        click.option(
            "--snapshot",
            metavar="NAME|ID",
            help="Take the disk as it was in this internal snapshot.",
        ),
        click.option(
            "--secret",
            metavar="file=PATH",
            callback=_secret,
            help="Passphrase of an encrypted image file.",
        ),
        click.option(
            "--backing-format",
            type=click.Choice(["raw", *FORMATS]),
            help="Format of backing files that record none.",
        ),
        click.option(
            "--partition",
            metavar="N|root",
            callback=_partition,
            help="Take only this partition, or the one with a Linux root.",
        ),
        click.option(
            "--verify", is_flag=True, help="Read the result again, and compare."
        ),
    ),
    sources=FORMATS,
)


# -- Out


def _export(job: Job) -> Facts | None:
    if not local.is_stack(job):
        raise UsageError(
            f"{job.sources[0]}: is not an image of layers",
            hint="between other formats, see qemu-img convert",
        )
    local.refuse_streams(job)
    if job.target == STREAM:
        raise UsageError(f"{job.target_format} for this cannot be a pipe")
    options = ExportOptions(
        job.options["create_options"], job.options["compressed"], job.options["verify"]
    )
    with ExitStack() as stack, progress_bar("convert", job.progress) as show:
        device = local.open_stack(stack, job.sources, job.target)
        if job.options["chain"]:
            return _export_chain(job, device, options, show)
        export_file(device, Path(job.target), job.target_format, options, show)
    return _file_facts(Path(job.target), job.target_format, device.size)


def _export_chain(
    job: Job, device: Device, options: ExportOptions, show: Progress | None
) -> Facts | None:
    if job.target_format not in CHAINED:
        raise UsageError(f"--chain goes with -O {' or '.join(CHAINED)}")
    if device.upper:
        raise UsageError(
            f"{device.name}: has a writable layer", hint="obd commit or seal it first"
        )
    image = resolved(job.sources)
    made = export_chain(
        image.layers, Path(job.target), job.target_format, options, show
    )
    facts = _file_facts(made[-1], job.target_format, device.size)
    facts["files"] = [
        {"filename": str(path), "source": file.name}
        for path, file in zip(made, image.layers, strict=True)
    ]
    return facts


def _file_facts(path: Path, form: str, size: int) -> Facts:
    return {
        "filename": str(path),
        "format": form,
        "virtual-size": size,
        "actual-size": path.stat().st_blocks * 512,
    }


def _is_export(job: Job) -> bool:
    if job.target_format == "raw":
        # A raw disk that is compared; or what is no stack, to say so.
        return bool(job.options["verify"]) or _is_vm(job)
    return job.target_format in TARGETS


EXPORT = Converter(
    name="-O qcow2 and its like",
    matches=_is_export,
    run=_export,
    takes=frozenset(["verify", *_EXPORT_ONLY]),
    options=(
        click.option(
            "-o",
            "--create-options",
            multiple=True,
            metavar="NAME=VALUE",
            help="Option of the format, as qemu-img create has it (repeat).",
        ),
        click.option(
            "-c", "--compressed", is_flag=True, help="Compress (qcow2, vmdk)."
        ),
        click.option(
            "--chain",
            is_flag=True,
            help="One file per layer, in the folder DST, over each other (qcow2).",
        ),
    ),
    targets=TARGETS,
)
