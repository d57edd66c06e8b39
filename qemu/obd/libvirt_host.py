# SPDX-License-Identifier: Apache-2.0
"""
libvirt_host - layered disks for machines that libvirt runs: live, over any URI.

It needs libvirt-python, which is not needed otherwise. Every error is a
VmError with libvirt's own message inside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from xml.etree import ElementTree

from obdengine.errors import VmError, VmTimeout
from qemu.obd.blocks import Disk, Limits
from qemu.obd.domain import disk_xml, serial_target

__all__ = ["LibvirtHost", "library_version"]

_Result = TypeVar("_Result")

_STEP = 0.1


class LibvirtHost:
    """A connection to libvirt: qemu:///system, qemu:///session, ..."""

    def __init__(self, uri: str | None = None) -> None:
        """Connect; VmError when libvirt, or its library, is not there."""
        self._libvirt = libvirt = _library()
        # It says on standard error what is said here as an exception.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        self._connection = self._try(
            f"libvirt at {uri or 'its usual place'}", lambda: libvirt.open(uri)
        )

    def close(self) -> None:
        """Hang up; machines go on, but those of an embedded libvirt."""
        with suppress(self._libvirt.libvirtError):
            self._connection.close()

    def start(self, xml: str, *, define: bool = False) -> str:
        """Start a machine and return its name; define: it stays when it is off."""
        connection = self._connection
        if define:
            domain = self._try("define a machine", lambda: connection.defineXML(xml))
            try:
                self._try(f"start {domain.name()}", domain.create)
            except BaseException:
                domain.undefine()
                raise
        else:
            domain = self._try("start a machine", lambda: connection.createXML(xml, 0))
        return str(domain.name())

    def stop(self, name: str, *, seconds: float = 60.0, force: bool = False) -> None:
        """Ask a machine to power off; force: end it. One that is off is fine.

        Raises VmTimeout when it did not in so many seconds.
        """
        domain = self._find(name)
        if domain is None or not self._is_active(domain):
            return
        if force:
            self._try(f"end {name}", domain.destroy)
            return
        self._try(f"power off {name}", domain.shutdown)
        self._wait(
            lambda: not self._is_active(domain), seconds, f"{name}: does not power off"
        )

    def forget(self, name: str) -> None:
        """Undefine a machine; one that is not defined is fine."""
        domain = self._find(name)
        if domain is not None and domain.isPersistent():
            self._try(f"undefine {name}", domain.undefine)

    def is_running(self, name: str) -> bool:
        """Tell whether there is such a machine, and it runs."""
        domain = self._find(name)
        return domain is not None and self._is_active(domain)

    def attach(self, name: str, disk: Disk, *, keep: bool = False) -> str:
        """Give a machine a disk, and return what it is called in it: vdb.

        keep: it has it after the next start too.
        """
        domain = self._get(name)
        root = ElementTree.fromstring(domain.XMLDesc())
        taken = {found.get("dev") for found in root.findall("devices/disk/target")}
        number = 0
        while serial_target(number) in taken:
            number += 1
        self._try(
            f"attach {disk.name} to {name}",
            lambda: domain.attachDeviceFlags(
                disk_xml(disk, number), self._flags(domain, keep)
            ),
        )
        return serial_target(number)

    def detach(
        self, name: str, disk: str, *, keep: bool = False, seconds: float = 60.0
    ) -> None:
        """Take a disk from a machine by its name; VmTimeout when it stays.

        keep: after the next start it has none either.
        """
        domain = self._get(name)
        found = self._disk(domain, disk)
        if found is None:
            return
        xml = ElementTree.tostring(found, encoding="unicode")
        self._try(
            f"detach {disk} from {name}",
            lambda: domain.detachDeviceFlags(xml, self._flags(domain, keep)),
        )
        self._wait(
            lambda: self._disk(domain, disk) is None,
            seconds,
            f"{disk}: the guest does not let go of it",
        )

    def disks(self, name: str) -> dict[str, str]:
        """Return the layered disks of a machine: the target of each name."""
        root = ElementTree.fromstring(self._get(name).XMLDesc())
        return {
            str(found.findtext("serial")): str(target.get("dev"))
            for found in root.findall("devices/disk")
            if (target := found.find("target")) is not None and _is_ours(found)
        }

    def limit(self, name: str, disk: str, limits: Limits) -> None:
        """Let a guest use no more of a disk than that."""
        domain, target = self._get(name), self.disks(name)[disk]
        words = {
            "total_iops_sec": limits.iops,
            "total_bytes_sec": limits.rate,
            "total_iops_sec_max": limits.iops_burst,
            "total_bytes_sec_max": limits.rate_burst,
        }
        self._try(
            f"limit {disk} of {name}",
            lambda: domain.setBlockIoTune(
                target, words, self._libvirt.VIR_DOMAIN_AFFECT_LIVE
            ),
        )

    @contextmanager
    def still(self, name: str) -> Iterator[str]:
        """Hold a machine still for a snapshot of its disks; yield how.

        "frozen": the guest's agent holds its file systems still; "paused":
        there is none, and what is taken is as after a power cut.
        """
        domain = self._get(name)
        try:
            domain.fsFreeze()
        except self._libvirt.libvirtError:
            paused = domain.state()[0] == self._libvirt.VIR_DOMAIN_RUNNING
            self._try(f"pause {name}", domain.suspend)
            try:
                yield "paused"
            finally:
                if paused:
                    self._try(f"resume {name}", domain.resume)
        else:
            try:
                yield "frozen"
            finally:
                self._try(f"thaw {name}", domain.fsThaw)

    def ask(self, name: str, command: str) -> str:
        """Give a machine's QEMU a command in JSON, and return its reply."""
        import libvirt_qemu

        domain = self._get(name)
        return str(
            self._try(
                f"ask {name}",
                lambda: libvirt_qemu.qemuMonitorCommand(domain, command, 0),
            )
        )

    # -- Inside

    def _try(self, what: str, call: Callable[[], _Result]) -> _Result:
        try:
            return call()
        except self._libvirt.libvirtError as error:
            raise VmError(what, reason=str(error.get_error_message())) from error

    def _find(self, name: str) -> Any:
        try:
            return self._connection.lookupByName(name)
        except self._libvirt.libvirtError as error:
            if error.get_error_code() == self._libvirt.VIR_ERR_NO_DOMAIN:
                return None
            reason = str(error.get_error_message())
            raise VmError(f"look for {name}", reason=reason) from error

    def _get(self, name: str) -> Any:
        found = self._find(name)
        if found is None:
            raise VmError(f"{name}: there is no such machine")
        return found

    # A transient one is gone as soon as it is off.
    def _is_active(self, domain: Any) -> bool:
        try:
            return bool(domain.isActive())
        except self._libvirt.libvirtError:
            return False

    def _flags(self, domain: Any, keep: bool) -> int:
        flags = int(self._libvirt.VIR_DOMAIN_AFFECT_LIVE) if domain.isActive() else 0
        return flags | (self._libvirt.VIR_DOMAIN_AFFECT_CONFIG if keep else 0)

    def _disk(self, domain: Any, name: str) -> ElementTree.Element | None:
        root = ElementTree.fromstring(domain.XMLDesc())
        for found in root.findall("devices/disk"):
            if found.findtext("serial") == name and _is_ours(found):
                return found
        return None

    def _wait(self, true: Callable[[], bool], seconds: float, what: str) -> None:
        until = time.monotonic() + seconds
        while not true():
            if time.monotonic() > until:
                raise VmTimeout(what)
            time.sleep(_STEP)


def _is_ours(disk: ElementTree.Element) -> bool:
    source = disk.find("source")
    return source is not None and source.get("protocol") == "nbd"


def library_version() -> str:
    """Return the version of libvirt that its library is for: "9.0"."""
    number = int(_library().getVersion())
    return f"{number // 1000000}.{number // 1000 % 1000}"


def _library() -> Any:
    try:
        import libvirt
    except ImportError as error:
        raise VmError(
            "libvirt-python is not installed",
            reason="pip install 'obdengine[libvirt]'",
        ) from error
    return libvirt
