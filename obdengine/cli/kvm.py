# SPDX-License-Identifier: Apache-2.0
"""
kvm - whether KVM runs guests, found out by running one.

/dev/kvm may be there and be of no use: on some clouds it interprets a guest's
kernel instruction by instruction. The guest here counts down and halts.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import signal
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

__all__ = ["why_not"]

_GET_API_VERSION = 0xAE00
_CREATE_VM = 0xAE01
_GET_VCPU_MMAP_SIZE = 0xAE04
_CREATE_VCPU = 0xAE41
_SET_TSS_ADDR = 0xAE47
_RUN = 0xAE80
_SET_USER_MEMORY_REGION = 0x4020AE46
_SET_REGS = 0x4090AE82
_GET_SREGS = 0x8138AE83
_SET_SREGS = 0x4138AE84

_API_VERSION = 12
_EXIT_HLT = 5
_EXIT_REASON_AT = 8

# mov ecx, 5000000; again: dec ecx; jnz again; hlt. A processor needs 5 ms for
# it, an interpreter that does a million instructions a second ten seconds.
_GUEST = b"\x66\xb9" + struct.pack("<I", 5_000_000) + b"\x66\x49\x75\xfc\xf4"
_SECONDS = 1.0


def why_not() -> str | None:
    """Return why KVM is of no use here, or None when it is."""
    try:
        with ExitStack() as stack:
            return _try(stack)
    except FileNotFoundError:
        return "there is no /dev/kvm"
    except TimeoutError:
        return "/dev/kvm is there, but it runs guests too slowly to boot one"
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"


def _try(stack: ExitStack) -> str | None:
    kvm = _closing(stack, os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    if fcntl.ioctl(kvm, _GET_API_VERSION) != _API_VERSION:
        return "/dev/kvm has another interface than QEMU's"
    machine = _closing(stack, fcntl.ioctl(kvm, _CREATE_VM, 0))
    if platform.machine() != "x86_64":
        return None
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    memory.write(_GUEST)
    pin = ctypes.c_char.from_buffer(memory)
    region = struct.pack("<IIQQQ", 0, 0, 0, mmap.PAGESIZE, ctypes.addressof(pin))
    fcntl.ioctl(machine, _SET_TSS_ADDR, 0x100000)
    fcntl.ioctl(machine, _SET_USER_MEMORY_REGION, region)
    processor = _closing(stack, fcntl.ioctl(machine, _CREATE_VCPU, 0))
    size = fcntl.ioctl(kvm, _GET_VCPU_MMAP_SIZE)
    state = stack.enter_context(mmap.mmap(processor, size))
    _start_at_zero(processor)
    with _alarm(_SECONDS):
        fcntl.ioctl(processor, _RUN, 0)
    (reason,) = struct.unpack_from("<I", state, _EXIT_REASON_AT)
    return None if reason == _EXIT_HLT else f"/dev/kvm: the guest failed ({reason})"


def _closing(stack: ExitStack, fd: int) -> int:
    stack.callback(os.close, fd)
    return fd


# Real mode with cs = 0, ip = 0. struct kvm_sregs begins with cs: its base is
# at 0 and its selector at 12; in struct kvm_regs rip and rflags come last.
def _start_at_zero(processor: int) -> None:
    special = bytearray(312)
    fcntl.ioctl(processor, _GET_SREGS, special)
    special[0:8] = bytes(8)
    special[12:14] = bytes(2)
    fcntl.ioctl(processor, _SET_SREGS, bytes(special))
    fcntl.ioctl(processor, _SET_REGS, struct.pack("<18Q", *[0] * 17, 2))


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(_signum: int, _frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
