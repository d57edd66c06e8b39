# SPDX-License-Identifier: Apache-2.0
"""
test_libvirt - machines of libvirt with layered disks, by `obd vm`.

The embedded driver needs no daemon; the session's starts by itself; the
system's runs in a mount namespace of the test.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from obdengine.errors import UsageError
from qemu.obd import Disk
from qemu.obd.domain import MachineKind, disk_xml, domain_xml, serial_target
from tests.host import rig
from tests.tools import ROOT, environment, let_everybody_in, requires
from tests.vm import guests

SCENE = Path(__file__).with_name("libvirt-scene.sh")

needs_libvirt = requires(
    *("qemu-system-x86_64", "nbdkit", "nbdkit-python", "mke2fs", "busybox", "cpio"),
    *("libvirtd", "root", "mount", "unshare", "setpriv"),
)


# -- The words


@pytest.mark.parametrize(
    ("number", "name"), [(0, "vda"), (25, "vdz"), (26, "vdaa"), (701, "vdzz")]
)
def test_targets(number: int, name: str) -> None:
    assert serial_target(number) == name


def test_a_disk_in_libvirts_words() -> None:
    disk = Disk("data", "/run/a b.sock", export="x", read_only=True)
    found = ElementTree.fromstring(disk_xml(disk, 2, boot=1))
    host = found.find("source/host")
    assert host is not None
    assert host.attrib == {"transport": "unix", "socket": "/run/a b.sock"}
    driver = found.find("driver")
    assert driver is not None
    assert driver.get("discard") == driver.get("detect_zeroes") == "unmap"
    assert found.find("readonly") is not None
    assert found.findtext("serial") == "data"


def test_words_from_outside_are_escaped() -> None:
    disk = Disk("data", '/run/"><x>.sock')
    assert "<x>" not in domain_xml(MachineKind("n"), [disk])


def test_a_relative_socket_is_refused() -> None:
    with pytest.raises(UsageError):
        disk_xml(Disk("data", "a.sock"))


EXAMPLES = sorted((ROOT / "docs" / "domains").glob("*.xml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid(path: Path) -> None:
    libvirt = pytest.importorskip("libvirt")
    connection = libvirt.open("test:///default")
    # That driver knows no other kind of machine, and no feature of one.
    text = path.read_text().replace('type="kvm"', 'type="test"')
    text = re.sub(r"<features>.*</features>", "", text, flags=re.DOTALL)
    flag = libvirt.VIR_DOMAIN_DEFINE_VALIDATE
    assert connection.defineXMLFlags(text, flag).name()
    connection.close()


# -- The daemons

ROOT_DISK = """
device=$(disk disk)
mount -t KIND "$device" /mnt && echo "of the root disk" >>/mnt/file && sync
echo FIRST
second=$(disk more)
mkdir -p /run/more /run/fixed
mount -t KIND -o OPTIONS "$second" /run/more && echo "of the second" >/run/more/file
umount /run/more
echo SECOND
third=$(disk fixed)
[ "$(cat /sys/block/${third#/dev/}/ro)" = 1 ]
mount -t KIND -o READING "$third" /run/fixed && ! touch /run/fixed/file
umount /run/fixed
echo THIRD
gone "$third"
gone "$second"
echo GONE
while [ ! -e /stop ]; do sleep 1; done
"""
# They have one image, and so one uuid.
OPTIONS = {"ext4": ("rw", "ro,noload"), "xfs": ("nouuid", "ro,norecovery,nouuid")}

# What a daemon that systemd does not run has to be told.
QEMU_CONF = """stdio_handler = "file"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = [ ]
cgroup_controllers = [ ]
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that anybody can reach, with short paths for sockets."""
    with tempfile.TemporaryDirectory(prefix="obd-lv-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def scene(
    place: Path, images: Path, kind: str, form: str, uri: str, *before: str
) -> None:
    """Run the scene at a libvirt, and judge what it leaves."""
    own, words = prepared(place, images, kind, before)
    words |= {"URI": uri, "FORM": form}
    done = subprocess.run(
        [*before, "sh", "-eu", str(SCENE)],
        env=environment(**words),
        capture_output=True,
        text=True,
        timeout=280,
    )
    console = (place / "console").read_text() if (place / "console").exists() else ""
    assert done.returncode == 0, done.stdout + done.stderr + console
    # The first was mounted when the power went.
    assert guests.file_in(own / "root", kind, "file", place, replay=True)
    assert guests.file_in(own / "more", kind, "file", place) == "of the second\n"


def prepared(
    place: Path, images: Path, kind: str, before: Sequence[str]
) -> tuple[Path, dict[str, str]]:
    """Put into place what the scene needs; return the uppers, and what it is told."""
    image = place / "image.obd"
    image.write_bytes(rig.layer(images, kind).read_bytes())
    writing, reading = OPTIONS[kind]
    script = ROOT_DISK.replace("OPTIONS", writing).replace("READING", reading)
    kernel, initrd = guests.boot_files(place, script.replace("KIND", kind))
    (place / "kernel").write_bytes(kernel.read_bytes())
    obd = place / "obd"
    main = "from obdengine.cli.main import main; main()"
    obd.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{main}' \"$@\"\n")
    obd.chmod(0o755)
    own = place / "own"
    own.mkdir()
    for path in (place, *place.rglob("*")):
        if "setpriv" in before:
            os.chown(path, 65534, 65534)
    words = {"PLACE": f"{place}", "OBD": f"{obd}", "INITRD": f"{initrd}"}
    return own, {**words, "OBD_RUN": f"{place}/run", "OBD_STATE": f"{place}/state"}


CELLS = [(kind, form) for kind in ("ext4", "xfs") for form in ("append", "sparse")]
soak = pytest.mark.soak


@needs_libvirt
@pytest.mark.parametrize(
    ("kind", "form"),
    [CELLS[0], *(pytest.param(*cell, marks=soak) for cell in CELLS[1:])],
)
def test_session(place: Path, images: Path, kind: str, form: str) -> None:
    home = place / "home"
    (home / ".config" / "libvirt").mkdir(parents=True)
    (home / ".config" / "libvirt" / "qemu.conf").write_text('stdio_handler = "file"\n')
    (home / "run").mkdir(mode=0o700)
    words = [*let_everybody_in(), "setpriv", "--reuid=65534", "--regid=65534"]
    words += ["--clear-groups", "env"]
    words += [f"HOME={home}", f"XDG_RUNTIME_DIR={home}/run"]
    words += [f"XDG_CONFIG_HOME={home}/.config", f"XDG_CACHE_HOME={home}/.cache"]
    scene(place, images, kind, form, "qemu:///session", *words)


SYSTEM = """
for folder in /run/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt; do
    mkdir -p "$folder" && mount -t tmpfs none "$folder"
done
mount -t tmpfs none /etc/libvirt
cp "$PLACE"/*.conf /etc/libvirt/
libvirtd >"$PLACE/libvirtd.log" 2>&1 &
daemon=$!
until [ -S /run/libvirt/libvirt-sock ]; do sleep 0.1; done
code=0
"$@" || code=$?
kill $daemon
wait $daemon || true
exit $code
"""


@needs_libvirt
@soak
@pytest.mark.parametrize(("kind", "form"), CELLS)
def test_system(place: Path, images: Path, kind: str, form: str) -> None:
    (place / "qemu.conf").write_text(QEMU_CONF)
    (place / "libvirtd.conf").write_text(
        'auth_unix_ro="none"\nauth_unix_rw="none"\nunix_sock_rw_perms="0777"\n'
    )
    words = ["unshare", "--mount", "sh", "-eu", "-c", SYSTEM, "sh"]
    scene(place, images, kind, form, "qemu:///system", *words)
