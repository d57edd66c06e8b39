# SPDX-License-Identifier: Apache-2.0
"""
rooms - reads the project's source and says where it breaks its own rules.

Each check takes the project's folder and yields complaints, one sentence
each, that start with a path. Nothing here imports what it looks at.

The one-way rule, lowest floor first: a room may import from floors below its
own, and from itself. What the package shows to the world (obdengine/__init__.py)
has a floor too, which only `cli` stands above.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = "obdengine"

FLOORS = [
    {"errors"},
    {"units", "segment"},
    {"_core"},
    {"source"},
    {"oci"},
    {"blob"},
    {"layer"},
    {"index"},
    {"device"},
    {"ext4"},
    {"service"},
    {"config"},
    {"ops"},
    {"nbd", "host"},
    {""},  # obdengine/__init__.py
    {"cli"},
]

# Lower floors that a room must not use all the same: the index is arithmetic.
FORBIDDEN = {"index": {"source", "blob", "layer"}}

# What is not in the standard library, and the rooms that may use it.
THIRD_PARTY = {
    "_core": {"cffi", "_cffi_backend"},
    "ext4": {"cffi", "_cffi_backend"},
    "source": {"urllib3"},
    "cli": {"click", "tqdm", "PIL", "qemu"},
}

# Rooms with a compiled module of their own.
COMPILED = ("_core", "ext4")

# Outsiders: they see only what __all__ shows.
OUTSIDERS = ["nbdkit_plugin", "qemu"]

# Files that show names which they import.
PASSING_ON = {"__init__.py", "binding.py"}

PYTHON_LINES = 30
C_LINES = 50
FILE_LINES = 600

PARTS = ["obdengine", "nbdkit_plugin", "qemu", "tests", "images", ".ci"]
SKIPPED = {"__pycache__", "data"}


class Import(NamedTuple):
    """One imported name: `from module import name`, or name "" for `import`."""

    module: str
    name: str
    bound: str
    line: int


def files(root: Path, *suffixes: str) -> Iterator[Path]:
    """Yield the project's own files that end in one of suffixes."""
    for part in PARTS:
        for path in sorted((root / part).rglob("*")):
            if path.suffix in suffixes and not SKIPPED & set(path.parts):
                yield path


def imports(tree: ast.AST) -> Iterator[Import]:
    """Yield every import, those inside functions and TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, "", alias.asname or "", node.lineno)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                bound = alias.asname or alias.name
                yield Import(module, alias.name, bound, node.lineno)


def room_of(path: Path, root: Path) -> str:
    """Return the room of a file in the package: "blob", "errors", "" for the top."""
    parts = path.relative_to(root / PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def target_of(item: Import, root: Path) -> str | None:
    """Return the room that an import reaches, or None when it is another package."""
    parts = item.module.split(".")
    if parts[0] != PACKAGE:
        return None
    if len(parts) > 1:
        return parts[1]
    home = root / PACKAGE
    is_room = (home / item.name).is_dir() or (home / f"{item.name}.py").exists()
    return item.name if item.name and is_room else ""


def floor_of(room: str) -> int | None:
    """Return the floor of a room, or None when FLOORS does not know it."""
    return next((n for n, rooms in enumerate(FLOORS) if room in rooms), None)


def check_floors(root: Path) -> Iterator[str]:
    """Complain about imports that go up, sideways, or to what a room may not use."""
    for path in files(root, ".py"):
        if path.relative_to(root).parts[0] != PACKAGE:
            continue
        room = room_of(path, root)
        if floor_of(room) is None:
            yield f"{path}: room {room!r} has no floor in tests/rooms.py"
            continue
        for item in imports(ast.parse(path.read_text())):
            problem = _import_problem(room, item, root)
            if problem:
                yield f"{path}:{item.line}: {problem}"


def _import_problem(room: str, item: Import, root: Path) -> str | None:
    if item.module.startswith("."):
        return "relative import, write the full name"
    if item.module == "importlib" or item.name == "__import__":
        return "importlib hides imports from this test"
    target = target_of(item, root)
    if target is None:
        return _third_party_problem(room, item.module.split(".")[0])
    below, own = floor_of(target), floor_of(room)
    if target == room:
        return None
    if below is None or own is None or below >= own:
        return f"{room or PACKAGE} must not import {target or PACKAGE}"
    if target in FORBIDDEN.get(room, ()):
        return f"{room} must not import {target}"
    return None


def _third_party_problem(room: str, top: str) -> str | None:
    if top in sys.stdlib_module_names or top in THIRD_PARTY.get(room, ()):
        return None
    return f"{room or PACKAGE} must not import {top}"


def check_door(root: Path) -> Iterator[str]:
    """Complain when anything but a room's binding.py imports its compiled module."""
    for room in COMPILED:
        home = root / PACKAGE / room
        compiled = _compiled_names(home)
        inside = f"{PACKAGE}.{room}.binding"
        for path in files(root, ".py"):
            if path == home / "binding.py":
                continue
            for item in imports(ast.parse(path.read_text())):
                full = f"{item.module}.{item.name}".rstrip(".")
                if any(full == n or full.startswith(f"{n}.") for n in compiled):
                    yield f"{path}:{item.line}: only {inside} imports the module"


def _compiled_names(home: Path) -> set[str]:
    prefix = f"{PACKAGE}.{home.name}"
    found = {f"{prefix}.{path.name.split('.')[0]}" for path in home.glob("*.so")}
    recipe = home / "ffi_build.py"
    if recipe.exists():
        found |= set(re.findall(rf'"({re.escape(prefix)}\.\w+)"', recipe.read_text()))
    return found


def check_outsiders(root: Path) -> Iterator[str]:
    """Complain when the plugin or qemu/ uses what the package does not show."""
    for path in files(root, ".py"):
        if path.relative_to(root).parts[0] not in OUTSIDERS:
            continue
        tree = ast.parse(path.read_text())
        for item in imports(tree):
            if item.module.split(".")[0] == PACKAGE:
                yield from _outsider_problems(path, item, root)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute):
                continue
            if _is_foreign_private(node):
                yield f"{path}:{node.lineno}: {node.attr} is private"
            elif _is_of_package(node) and node.attr not in shown_by(PACKAGE, root):
                yield f"{path}:{node.lineno}: {PACKAGE} does not show {node.attr}"


def _outsider_problems(path: Path, item: Import, root: Path) -> Iterator[str]:
    where = f"{path}:{item.line}"
    if any(part.startswith("_") for part in [*item.module.split("."), item.name]):
        yield f"{where}: {item.module} {item.name} is private"
    elif item.name and item.name not in shown_by(item.module, root):
        yield f"{where}: {item.module} does not show {item.name}"


def shown_by(module: str, root: Path) -> set[str]:
    """Return what a module offers: its __all__ and, for a package, its modules."""
    home = root.joinpath(*module.split("."))
    source = home / "__init__.py" if home.is_dir() else home.with_suffix(".py")
    below = {path.stem for path in home.glob("*") if not path.name.startswith("_")}
    return below | set(
        listed(ast.parse(source.read_text())) or () if source.exists() else ()
    )


def _is_foreign_private(node: ast.Attribute) -> bool:
    own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
    private = node.attr.startswith("_") and not node.attr.startswith("__")
    return private and not own


def _is_of_package(node: ast.Attribute) -> bool:
    inside = isinstance(node.value, ast.Name) and node.value.id == PACKAGE
    return inside and not node.attr.startswith("__")


def check_namespace(root: Path) -> Iterator[str]:
    """Complain about files that would break the namespace shared with qemu.qmp."""
    for name in ("qemu/__init__.py", "qemu/qmp.py", "qemu/qemu.py", "tests/qemu"):
        if (root / name).exists():
            yield f"{root / name}: would hide the qemu namespace of qemu.qmp"


def check_headers(root: Path) -> Iterator[str]:
    """Complain about files without the licence line and a sentence of purpose."""
    for path in files(root, ".py", ".c", ".h", ".sh"):
        lines = path.read_text().split("\n")
        if lines[0].startswith("#!"):
            del lines[0]
        if "SPDX-License-Identifier: Apache-2.0" not in lines[0]:
            yield f"{path}: the first line must be the SPDX licence line"
        if path.suffix == ".py" and not ast.get_docstring(ast.parse(path.read_text())):
            yield f"{path}: no docstring that says what the file is"


def listed(tree: ast.Module) -> list[str] | None:
    """Return the names in a module's __all__, or None when it has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and "__all__" in _assigned(node):
            return [str(name) for name in ast.literal_eval(node.value)]
    return None


def _assigned(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    else:
        return set()
    return {
        name.id
        for target in targets
        for name in ast.walk(target)
        if isinstance(name, ast.Name)
    }


def defined(tree: ast.Module) -> set[str]:
    """Return the public names that a module itself makes at its top level."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        found |= _assigned(node)
    return {name for name in found if not name.startswith("_")}


def check_public(root: Path) -> Iterator[str]:
    """Complain where __all__ and a module's public names differ."""
    for path in files(root, ".py"):
        if path.relative_to(root).parts[0] not in (PACKAGE, "qemu"):
            continue
        tree = ast.parse(path.read_text())
        shown, made = listed(tree), defined(tree)
        if shown is None:
            if made and path.name != "ffi_build.py":
                yield f"{path}: no __all__ for {sorted(made)}"
            continue
        # These pass on names that others make: a package, those of its files.
        passed = {item.bound for item in imports(tree)} | made
        reachable = passed if path.name in PASSING_ON else made
        for name in sorted(made - set(shown)):
            yield f"{path}: {name} is public and not in __all__"
        for name in sorted(set(shown) - reachable):
            yield f"{path}: {name} is in __all__ and not defined"
        if len(set(shown)) != len(shown):
            yield f"{path}: __all__ names something twice"


def lengths(root: Path) -> Iterator[tuple[str, int, int]]:
    """Yield (path[:function], lines, limit) for all files and functions.

    A Python function's docstring does not count: it is for the reader.
    """
    for path in files(root, ".py", ".c", ".h"):
        name = str(path.relative_to(root))
        text = path.read_text()
        yield name, len(text.splitlines()), FILE_LINES
        if path.suffix == ".py":
            for function, lines in _python_functions(ast.parse(text)):
                yield f"{name}:{function}", lines, PYTHON_LINES
        else:
            for function, lines in c_functions(text):
                yield f"{name}:{function}", lines, C_LINES


def _python_functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                lines -= (first.end_lineno or first.lineno) - first.lineno + 1
            yield node.name, lines


def c_functions(text: str) -> Iterator[tuple[str, int]]:
    """Yield (name, lines of the body) of each function in the house's C style.

    There a function's name, its opening and its closing brace stand in column 0.
    """
    name, start = "", 0
    for number, line in enumerate(text.splitlines()):
        found = re.match(r"([a-zA-Z_]\w*)\(", line)
        if found:
            name = found[1]
        elif line.startswith("{"):
            start = number
        elif line == "}" and name and start:
            yield name, number - start - 1
            name, start = "", 0


def check_lengths(root: Path, reasons: dict[str, str]) -> Iterator[str]:
    """Complain about what is too long without a reason, and reasons without need."""
    needed = set()
    for name, lines, limit in lengths(root):
        if lines > limit:
            needed.add(name)
            if not reasons.get(name):
                yield f"{name}: {lines} lines, {limit} allowed without a reason"
    for name in sorted(set(reasons) - needed):
        yield f"{name}: has a reason to be long, and is not"
