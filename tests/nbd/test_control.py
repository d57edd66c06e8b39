# SPDX-License-Identifier: Apache-2.0
"""test_control - orders to a running server: by HTTP on a socket, and by `obd`."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.nbd import disks, programs, stamps
from tests.nbd.disks import FORMS, MIB
from tests.running import Export, Ran, ServerFailed
from tests.stacks import SIZE, Image
from tests.tools import requires

Served = Callable[..., Export]
Obd = Callable[..., Ran]

pytestmark = requires("nbdinfo", "nbdcopy", "python3-libnbd")

WRITE = "h.connect_uri(sys.argv[1])\nh.pwrite(b'w' * 65536, 0)\nh.flush()"


@pytest.fixture
def control(tmp_path: Path) -> Path:
    return tmp_path / "control"


@pytest.fixture(params=FORMS)
def keys(
    request: pytest.FixtureRequest, image: Image, tmp_path: Path, control: Path
) -> list[str]:
    """The keys for a new upper over the stack, and a control socket."""
    upper, form = tmp_path / "upper", request.param
    return [f"config={image.config}", f"upper={upper}", f"form={form}", f"{control=!s}"]


def send(control: Path, request: str) -> tuple[int, Any]:
    """Send a line of HTTP, and return the status and the reply."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(control))
        client.sendall(f"{request} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        raw = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def test_stats(served: Served, keys: list[str], control: Path, tmp_path: Path) -> None:
    export = served(*keys)
    programs.libnbd(WRITE, export.uri)
    status, found = send(control, "GET /stats")
    assert status == 200
    assert found["virtual-size"] == SIZE
    assert found["config"] == str(tmp_path / "upper" / "config.v1.json")
    assert found["read-only"] is False
    assert len(found["layers"]) == 3
    upper = found["upper"]
    assert upper["stored"] == 65536
    assert upper["records"] == 1
    assert upper["pending"] == 0
    assert f"form={upper['form']}" in keys


def test_compact(served: Served, keys: list[str], control: Path, obd: Obd) -> None:
    export = served(*keys)
    trim = WRITE.replace("h.pwrite(b'w' * 65536, 0)", "h.trim(65536, 0)")
    for script in (WRITE, trim, WRITE):
        programs.libnbd(script, export.uri)
    assert send(control, "GET /stats")[1]["upper"]["records"] == 3
    assert "the index has 1 records" in obd("compact", "--control", control).text
    assert send(control, "GET /stats")[1]["upper"]["records"] == 1
    content = disks.content(export)
    export.kill()
    assert disks.content(served(*keys)) == content


def lowers(config: Path) -> int:
    return len(json.loads(config.read_text())["lowers"])


def test_snapshot(
    served: Served, keys: list[str], control: Path, obd: Obd, tmp_path: Path
) -> None:
    export, config = served(*keys), tmp_path / "upper" / "config.v1.json"
    programs.libnbd(WRITE, export.uri)
    said = obd("snapshot", "--control", control).text
    assert str(tmp_path / "upper" / "upper-1.data") in said
    assert lowers(config) == 4
    programs.libnbd(WRITE.replace("'w'", "'v'"), export.uri)
    # As overlaybd's callers do it, with a name that nobody gave.
    status, reply = send(control, "POST /snapshot?dev_id=dev1&config=")
    assert (status, reply["success"]) == (200, True)
    assert lowers(config) == 5
    content = disks.content(export)
    assert content[:65536] == b"v" * 65536
    export.kill()
    again = served(f"config={config}")
    assert disks.content(again) == content
    # What was sealed first is the disk as it was then.
    layers = [f"config={layer}" for layer in json_layers(config)[:4]]
    assert disks.content(served(*layers))[:65536] == b"w" * 65536


def json_layers(config: Path) -> list[Path]:
    rows = json.loads(config.read_text())["lowers"]
    return [config.parent / row["file"] for row in rows]


def test_snapshot_into_another_configuration(
    served: Served, keys: list[str], control: Path, tmp_path: Path, image: Image
) -> None:
    """Overlaybd's way: the caller has written a configuration for what comes."""
    export, upper = served(*keys), tmp_path / "upper" / "upper-1.data"
    programs.libnbd(WRITE, export.uri)
    new = tmp_path / "other" / "new.json"
    new.parent.mkdir()
    rows = [{"file": str(file)} for file in [*image.layers, upper]]
    names = {"data": "next.data", "index": "next.index"}
    new.write_text(json.dumps({"lowers": rows, "upper": names}))
    status, reply = send(control, f"POST /snapshot?dev_id=a%20b&config={new}")
    assert (status, reply["success"]) == (200, True), reply
    programs.libnbd(WRITE.replace("'w'", "'v'"), export.uri)
    content = disks.content(export)
    export.kill()
    assert disks.content(served(f"config={new}")) == content


GROWN = """\
import socket
old, new = nbd.NBD(), h
old.connect_uri(sys.argv[1])
size = old.get_size()
control = socket.socket(socket.AF_UNIX)
control.connect(sys.argv[2])
control.sendall(b"POST /resize?size=%2B1048576 HTTP/1.0\\r\\n\\r\\n")
assert b'"success": true' in b"".join(iter(lambda: control.recv(4096), b""))
assert old.get_size() == size
old.pwrite(b"o" * 512, size - 512)
new.connect_uri(sys.argv[1])
assert new.get_size() == size + 1048576
assert new.pread(1048576, size) == bytes(1048576)
new.pwrite(b"n" * 65536, size + 4096)
assert new.pread(512, size - 512) == b"o" * 512
new.flush()
"""


def test_resize(served: Served, keys: list[str], control: Path, obd: Obd) -> None:
    """Who is connected has the old size, who comes has the new one."""
    export = served(*keys)
    programs.libnbd(GROWN, export.uri, str(control))
    content = disks.content(export)
    assert len(content) == SIZE + MIB
    export.kill()
    export = served(*keys)
    assert disks.content(export) == content
    err = obd("resize", "--control", control, str(SIZE + 4096), code=2).err
    assert f"from {SIZE + 4096} to" in err
    said = obd("resize", "--control", control, str(SIZE + 128 * 1024)).text
    assert f"{SIZE + 128 * 1024} for new clients" in said
    assert disks.content(export) == content[: SIZE + 128 * 1024]
    obd("resize", "--control", control, "+64k")
    shown = content[: SIZE + 128 * 1024] + bytes(64 * 1024)
    assert disks.content(export) == shown
    export.kill()
    assert disks.content(served(*keys)) == shown


def test_merge(
    served: Served, keys: list[str], control: Path, obd: Obd, tmp_path: Path
) -> None:
    export, config = served(*keys), tmp_path / "upper" / "config.v1.json"
    programs.libnbd(WRITE, export.uri)
    content = disks.content(export)
    one, two = tmp_path / "upper" / "one.obd", tmp_path / "two.obd"
    obd("merge", "--control", control, "--layers", "1:3", "--compress", "zstd", one)
    assert lowers(config) == 2
    assert json.loads(config.read_text())["lowers"][1]["file"] == "one.obd"
    assert disks.content(export) == content
    obd("snapshot", "--control", control)
    programs.libnbd(WRITE.replace("'w'", "'v'"), export.uri)
    content = disks.content(export)
    said = obd("merge", "--control", control, two).text
    assert "is in their place; there is 1 now" in said
    assert lowers(config) == 1
    assert len(send(control, "GET /stats")[1]["layers"]) == 1
    assert disks.content(export) == content
    err = obd("merge", "--control", control, two, code=2).err
    assert "is there already" in err
    export.kill()
    assert disks.content(served(*keys[1:], f"config={two}")) == content


def test_merge_without_an_upper(
    served: Served, control: Path, image: Image, obd: Obd, tmp_path: Path
) -> None:
    """Of a read-only image too, if it has a configuration."""
    config = tmp_path / "config.v1.json"
    rows = [{"file": str(layer)} for layer in image.layers]
    config.write_text(json.dumps({"lowers": rows}))
    export = served(f"config={config}", f"control={control}")
    content = disks.content(export)
    obd("merge", "--control", control, tmp_path / "one.obd")
    assert lowers(config) == 1
    assert disks.content(export) == content
    export.kill()
    assert disks.content(served(f"config={config}")) == content
    served(*(f"config={layer}" for layer in image.layers), f"control={control}.2")
    err = obd("merge", "--control", f"{control}.2", tmp_path / "2", code=2).err
    assert "has no configuration" in err


@pytest.mark.parametrize("form", FORMS)
def test_snapshots_while_clients_write(
    served: Served, tmp_path: Path, form: str, control: Path
) -> None:
    lower, upper = tmp_path / "lower.lsmt", tmp_path / "upper"
    before = disks.lower(lower, 16 * MIB)
    words = (f"upper={upper}", f"form={form}", "garbage=1M", f"control={control}")
    export, taken = served(f"config={lower}", *words), 0
    with ThreadPoolExecutor() as pool:
        storm = pool.submit(programs.storm, tmp_path, export.uri, requests=2500)
        # An image has 255 layers at most, however slow the clients are.
        while taken < 6 or (not storm.done() and taken < 400):
            order = "snapshot" if taken % 2 == 0 else "compact"
            assert send(control, f"POST /{order}")[0] == 200
            taken += 1
    content = disks.content(export)
    export.kill()
    config = upper / "config.v1.json"
    assert lowers(config) == 1 + (taken + 1) // 2
    found = disks.content(served(f"config={config}"))
    verdict = stamps.judge(before, storm.result(), found)
    assert not verdict.wrong, verdict.wrong[:5]
    # Before the crash everything that was acknowledged is to be seen.
    seen = stamps.judge(before, storm.result(), content)
    assert (seen.wrong, seen.lost) == ([], 0)


def killed_round(
    served: Served, folder: Path, keys: list[str], before: bytes, seed: int
) -> bytes:
    """Kill nbdkit among writes and orders; return the disk that is there then."""
    export = served(*keys)
    plan = {"seed": seed, "requests": 1500, "kill": export.process.pid}
    orders = itertools.cycle(["snapshot", "compact", "compact"])
    with ThreadPoolExecutor() as pool:
        storm = pool.submit(programs.storm, folder, export.uri, **plan)
        # It may die in the middle of an order, too.
        with contextlib.suppress(OSError, IndexError, ValueError):
            while not storm.done():
                send(folder / "control", f"POST /{next(orders)}")
    export.kill()
    again = served(*keys)
    found = disks.content(again)
    again.stop()
    verdict = stamps.judge(before, storm.result(), found)
    assert not verdict.wrong, verdict.wrong[:5]
    return found


def kill_often(served: Served, folder: Path, form: str, seeds: range) -> None:
    lower = folder / "lower.lsmt"
    disk = disks.lower(lower, 16 * MIB)
    keys = [f"config={lower}", f"upper={folder / 'upper'}", f"form={form}"]
    keys += ["garbage=1M", f"control={folder / 'control'}"]
    for seed in seeds:
        disk = killed_round(served, folder, keys, disk, seed)
    assert lowers(folder / "upper" / "config.v1.json") > 1


@pytest.mark.parametrize("form", FORMS)
def test_crash_among_orders(served: Served, tmp_path: Path, form: str) -> None:
    kill_often(served, tmp_path, form, range(2))


@pytest.mark.soak
@pytest.mark.parametrize("form", FORMS)
def test_many_crashes_among_orders(served: Served, tmp_path: Path, form: str) -> None:
    # Each takes some layers of the 255 that there may be.
    kill_often(served, tmp_path, form, range(20, 40))


@pytest.mark.parametrize(
    ("request_line", "status", "said"),
    [
        ("GET /", 404, "POST /snapshot, POST /compact, POST /resize, POST /merge"),
        ("GET /snapshot", 405, "with POST"),
        ("POST /stats", 405, "with GET"),
        ("DELETE /stats", 405, "DELETE"),
        ("POST /snapshot?config=new.json", 400, "from the root"),
        ("POST /resize?size=-1", 400, "not a number"),
        ("POST /resize?size=100", 400, "multiple of 512"),
        ("POST /merge?to=one.obd", 400, "from the root"),
        ("POST /merge?to=/x&first=a", 400, "not a number"),
        ("POST /merge?to=/x&first=7", 400, "no layers from 7"),
        ("POST /snapshot?config=/no/such/file", 404, "/no/such/file"),
        ("all kinds of nonsense", 400, "nonsense"),
    ],
)
def test_bad_requests(
    served: Served,
    tmp_path: Path,
    image: Image,
    request_line: str,
    status: int,
    said: str,
) -> None:
    control = tmp_path / "control"
    upper = f"upper={tmp_path / 'upper'}"
    export = served(f"config={image.config}", upper, f"control={control}")
    found, reply = send(control, request_line)
    assert (found, reply["success"]) == (status, False)
    assert said in reply["message"]
    assert export.stop() == 0
    assert export.log() == ""


def test_image_without_an_upper(
    served: Served, control: Path, image: Image, obd: Obd
) -> None:
    served(f"config={image.config}", "export=disk", f"control={control}")
    assert send(control, "POST /snapshot")[0] == 409
    assert send(control, "POST /compact?dev_id=disk")[0] == 409
    assert send(control, "GET /stats?dev_id=other")[0] == 404
    assert send(control, "GET /stats")[1]["upper"] is None
    assert "no writable layer" in obd("snapshot", "--control", control, code=2).err


def test_folder_of_images(
    served: Served, control: Path, image: Image, tmp_path: Path
) -> None:
    (tmp_path / "one.obd").symlink_to(image.layers[0])
    (tmp_path / "two.obd").symlink_to(image.layers[1])
    export = served(f"dir={tmp_path}", f"control={control}")
    status, reply = send(control, "GET /stats")
    assert status == 404
    assert "say which: one, two" in reply["message"]
    assert "no client" in send(control, "GET /stats?dev_id=one")[1]["message"]
    script = (
        "import socket\n"
        "h.connect_uri(sys.argv[1])\n"
        "control = socket.socket(socket.AF_UNIX)\n"
        "control.connect(sys.argv[2])\n"
        "control.sendall(b'GET /stats?dev_id=one HTTP/1.0\\r\\n\\r\\n')\n"
        "print(control.makefile().read().split('\\n\\n')[1])\n"
    )
    found = json.loads(programs.libnbd(script, export.uri_of("one"), str(control)))
    assert found["layers"] == [str(tmp_path / "one.obd")]


def test_socket_is_the_owners_and_goes(
    served: Served, keys: list[str], control: Path
) -> None:
    export = served(*keys)
    mode = control.lstat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert export.stop() == 0
    assert not control.exists()


def test_socket_that_a_crash_has_left(
    served: Served, keys: list[str], control: Path
) -> None:
    served(*keys).kill()
    assert control.is_socket()
    served(*keys)
    assert send(control, "GET /stats")[0] == 200


@pytest.mark.parametrize("what", ["server", "file", "folder", "link"])
def test_place_that_is_taken(
    served: Served, image: Image, control: Path, what: str
) -> None:
    if what == "server":
        served(f"config={image.config}", f"control={control}")
    elif what == "file":
        control.write_text("mine")
    elif what == "folder":
        control.mkdir()
    else:
        control.symlink_to("nowhere")
    with pytest.raises(ServerFailed, match=str(control)):
        served(f"config={image.config}", f"control={control}")
    assert os.path.lexists(control)


def test_place_that_cannot_be(served: Served, image: Image, tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "control", tmp_path / ("x" * 120)):
        with pytest.raises(ServerFailed) as failed:
            served(f"config={image.config}", f"control={path}")
        assert str(path) in str(failed.value)
        assert "Traceback" not in str(failed.value)


def test_nobody_listens(obd: Obd, control: Path) -> None:
    said = obd("snapshot", "--control", control, code=1).err
    assert f"{control}: nobody answers: No such file" in said
