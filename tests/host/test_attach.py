# SPDX-License-Identifier: Apache-2.0
"""test_attach - images as block devices, by FUSE and a loop device."""

from __future__ import annotations

import json
import os
import pwd
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from tests.host import rig
from tests.host.rig import Host
from tests.running import PATIENCE
from tests.tools import environment, requires, tool

pytestmark = requires(
    "nbdkit", "nbdkit-python", "qemu-storage-daemon", "fuse", "loop", "root", "mke2fs"
)


@pytest.fixture
def image(images: Path) -> Path:
    return rig.layer(images, "ext4")


def content(path: str | Path) -> bytes:
    return Path(path).read_bytes()


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return "State:\tZ" not in status  # which its parent has not noticed yet


def test_device_is_the_disk(host: Host, image: Path, tmp_path: Path) -> None:
    found = host.attach(image)
    assert found["state"] == "up"
    assert found["via"] in ("loop", "nbd")
    assert content(found["device"]) == content(rig.flat(image, tmp_path))


def test_it_says_how_a_runtime_mounts_it(host: Host, image: Path) -> None:
    found = host.attach(image)
    assert found["mount"] == {
        "type": "ext4",
        "source": found["device"],
        "options": ["ro", "noload"],
    }
    assert host.attach("--upper", host.folder / "own", image)["mount"]["options"] == [
        *("rw", "discard"),
    ]


def test_nothing_is_left_after_a_detach(host: Host, image: Path) -> None:
    found = host.attach("--name", "one", image)
    host.obd("detach", "one")
    assert host.ps() == []
    assert not is_running(found["server-pid"])
    assert not any(map(is_running, found["bridge-pids"]))
    backing = Path("/sys/block", Path(found["device"]).name, "loop/backing_file")
    # Somebody else may have the device by now.
    assert not backing.exists() or str(host.folder) not in backing.read_text()
    assert list((host.folder / "run").iterdir()) == []


def test_detaching_twice_is_fine(host: Host, image: Path) -> None:
    found = host.attach(image)
    host.obd("detach", found["device"])
    assert "is not attached" in host.obd("detach", found["device"]).err


def test_attaching_twice_under_one_name_is_one_device(host: Host, image: Path) -> None:
    first = host.attach("--name", "one", image)
    assert host.attach("--name", "one", image) == first
    assert len(host.ps()) == 1


def test_a_name_is_for_one_image(host: Host, image: Path) -> None:
    host.attach("--name", "one", image)
    words = ["attach", "--name", "one", "--upper", host.folder / "own", image]
    assert "is the name of another device" in host.obd(*words, code=2).err


def test_without_a_name_each_is_new(host: Host, image: Path) -> None:
    assert host.attach(image)["name"] == "ext4"
    assert host.attach(image)["name"] == "ext4-2"


def test_what_is_written_is_in_the_upper(host: Host, image: Path) -> None:
    own = host.folder / "own"
    found = host.attach("--upper", own, image)
    with Path(found["device"]).open("r+b") as device:
        device.seek(1 << 20)
        device.write(b"of this test")
    host.obd("detach", found["name"])
    disk = rig.flat(own / "config.v1.json", host.folder)
    assert disk.read_bytes()[1 << 20 :].startswith(b"of this test")


# QEMU's own FUSE mixes up what is written at the same time; so who writes more
# than a little at a time has to find all of it.
def test_much_is_written_at_a_time(host: Host, image: Path, tmp_path: Path) -> None:
    own = host.folder / "own"
    found = host.attach("--upper", own, image)
    chance = Random(6)
    disk = bytearray(content(rig.flat(image, tmp_path)))
    with Path(found["device"]).open("r+b", buffering=0) as device:
        for _ in range(80):
            size = 512 * chance.randrange(1, 2048)
            offset = 512 * chance.randrange((len(disk) - size) // 512)
            data = chance.randbytes(size) if chance.random() < 0.8 else bytes(size)
            device.seek(offset)
            device.write(data)
            disk[offset : offset + size] = data
        os.fsync(device.fileno())
    subprocess.run(["blockdev", "--flushbufs", found["device"]], check=True)
    assert content(found["device"]) == disk
    host.obd("detach", found["name"])
    assert content(rig.flat(own / "config.v1.json", host.folder)) == disk


def test_a_read_only_device_refuses_writes(host: Host, image: Path) -> None:
    found = host.attach(image)
    words = [tool("blockdev"), "--getro", found["device"]]
    assert subprocess.run(words, check=True, stdout=-1).stdout == b"1\n"


def test_a_mounted_device_stays(host: Host, image: Path) -> None:
    found = host.attach(image)
    words = ["unshare", "--mount", "sh", "-ec"]
    script = 'mount -o ro,noload "$1" /mnt; echo; read -r _'
    holder = subprocess.Popen(
        [*words, script, "sh", found["device"]], stdin=-1, stdout=-1
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        assert "is mounted" in host.obd("detach", found["name"], code=2).err
        assert host.ps()[0]["state"] == "up"
    finally:
        holder.communicate(b"\n")
    host.obd("detach", found["name"])


# A mount namespace that is made meanwhile, as by a container, has copies of all
# mounts, and so of the file that FUSE shows: that is not for us to wait for.
@requires("unshare")
@pytest.mark.parametrize("writing", [False, True])
def test_another_mount_namespace_does_not_hold_a_device(
    host: Host, image: Path, writing: bool
) -> None:
    words = ["--upper", host.folder / "own"] if writing else []
    found = host.attach("--via", "loop", *words, image)
    with held_mounts():
        host.obd("detach", found["name"])
        assert not any(map(is_running, found["bridge-pids"]))
    assert host.ps() == []


@contextmanager
def held_mounts() -> Iterator[int]:
    """Keep copies of all mounts for the block; yield by which process."""
    words = [tool("unshare"), "--mount", "sh", "-c", "echo; read -r _"]
    with subprocess.Popen(words, stdin=-1, stdout=-1) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield holder.pid
        holder.communicate(b"\n")


@requires("unshare")
def test_who_has_it_mounted_elsewhere_is_named(
    host: Host, image: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    host.obd("mount", "--name", "one", image, target)
    with held_mounts() as pid:
        said = host.obd("umount", target, code=2).err
        assert f"is mounted by process {pid} " in said
        assert not os.path.ismount(target)
    host.obd("detach", "one")


def test_the_socket_is_somebody_elses(host: Host, image: Path) -> None:
    found = host.attach("--via", "socket", "--owner", "nobody", image)
    status = Path(found["socket"]).stat()
    assert status.st_uid == pwd.getpwnam("nobody").pw_uid
    assert (
        "give nbd.sock to"
        in host.obd(
            *("attach", "--via", "socket", "--owner", "no-such-user", image), code=1
        ).err
    )
    assert len(host.ps()) == 1


def test_a_server_with_a_client_stays(host: Host, image: Path) -> None:
    found = host.attach("--via", "socket", "--upper", host.folder / "own", image)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(found["socket"])
        client.recv(18)
        ran = host.obd("detach", found["name"], code=2)
        assert "1 client is connected" in ran.err
        assert is_running(found["server-pid"])
    host.obd("detach", found["name"])
    assert not is_running(found["server-pid"])


def test_a_damaged_image_has_its_own_exit_code(host: Host, image: Path) -> None:
    damaged = host.folder / "damaged.obd"
    damaged.write_bytes(image.read_bytes()[:1000])
    host.obd("attach", damaged, code=3)
    assert host.ps() == []
    assert not (host.folder / "run" / "damaged").exists()


def test_a_name_that_cannot_be_a_folder(host: Host, image: Path) -> None:
    assert (
        "cannot be the name" in host.obd("attach", "--name", "../x", image, code=2).err
    )


def test_a_killed_server_is_started_again(host: Host, image: Path) -> None:
    found = host.attach(image)
    before = content(found["device"])
    rig.kill(found["server-pid"])
    assert host.ps()[0]["state"] == "down"
    host.obd("attach", "--all")
    after = host.ps()[0]
    assert after["state"] == "up"
    assert after["device"] == found["device"]
    assert after["server-pid"] != found["server-pid"]
    subprocess.run(["blockdev", "--flushbufs", found["device"]], check=True)
    assert content(found["device"]) == before


def test_requests_wait_for_the_next_server(host: Host, image: Path) -> None:
    found = host.attach("--upper", host.folder / "own", image)
    rig.kill(found["server-pid"])
    words = [tool("dd"), "if=/dev/urandom", f"of={found['device']}"]
    words += ["bs=64k", "count=16", "oflag=direct", "conv=fsync"]
    writer = subprocess.Popen(words, stderr=-3, env=environment())
    with pytest.raises(subprocess.TimeoutExpired):
        writer.wait(0.3)
    host.obd("attach", "--all")
    assert writer.wait(PATIENCE) == 0


@pytest.mark.parametrize("which", [0, 1])
def test_a_killed_bridge_is_started_again(host: Host, image: Path, which: int) -> None:
    found = host.attach("--via", "loop", "--upper", host.folder / "own", image)
    rig.kill(found["bridge-pids"][which])
    assert host.ps()[0]["state"] == "down"
    host.obd("attach", "--all")
    after = host.ps()[0]
    assert after["state"] == "up"
    assert content(after["device"])[1080:1082] == b"\x53\xef"


def reboot(host: Host, name: str) -> None:
    """Leave what a crash of the machine leaves: a record of another boot."""
    record = host.folder / "run" / name / "record.json"
    found = rig.facts_of(record)
    host.obd("detach", name)
    record.parent.mkdir()
    boot = f'"boot": "{found["boot"]}"'
    text = json.dumps(found, indent=2).replace(boot, '"boot": "another"')
    record.write_text(text)


def test_left_overs_of_another_boot_are_seen(host: Host, image: Path) -> None:
    host.attach("--name", "one", image)
    reboot(host, "one")
    assert host.ps()[0]["state"] == "away"
    host.obd("attach", "--all")
    assert host.ps() == []


def test_what_is_kept_comes_back_after_a_reboot(host: Host, image: Path) -> None:
    first = host.attach("--keep", "--name", "one", "--upper", host.folder / "u", image)
    kept = (host.folder / "state" / "one.json").read_text()
    reboot(host, "one")
    (host.folder / "state" / "one.json").write_text(kept)
    host.obd("attach", "--all")
    after = host.ps()[0]
    assert after["state"] == "up"
    assert after["upper"] == first["upper"]
    host.obd("detach", "one")
    assert list((host.folder / "state").iterdir()) == []


def test_a_record_that_never_ran_is_made(host: Host, image: Path) -> None:
    host.attach("--keep", "--name", "one", image)
    kept = (host.folder / "state" / "one.json").read_text()
    host.obd("detach", "one")
    (host.folder / "state" / "one.json").write_text(kept)
    assert host.ps()[0]["state"] == "away"
    host.obd("attach", "--all")
    assert host.ps()[0]["state"] == "up"


def test_many_at_once(host: Host, image: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: host.attach(image), range(6)))
    assert len({item["device"] for item in found}) == 6
    assert {item["state"] for item in host.ps()} == {"up"}
    rig.kill(found[0]["server-pid"])
    states = sorted(item["state"] for item in host.ps())
    assert states == ["down", *["up"] * 5]


@pytest.mark.soak
def test_two_hundred(host: Host, image: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: host.attach(image), range(200)))
    assert len({item["device"] for item in found}) == 200
    assert {item["state"] for item in host.ps()} == {"up"}
    for item in found[::20]:
        assert content(item["device"])[1080:1082] == b"\x53\xef"
    host.obd("detach", *(item["name"] for item in found))
    assert host.ps() == []


def test_a_file_for_who_has_no_devices(host: Host, image: Path, tmp_path: Path) -> None:
    found = host.attach("--via", "file", image)
    assert content(found["device"]) == content(rig.flat(image, tmp_path))
