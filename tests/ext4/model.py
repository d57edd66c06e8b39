# SPDX-License-Identifier: Apache-2.0
"""
model - what a stack of layers means, in the most obvious way.

A node is a file of any kind; two names of one node are hard links. Layers
are lists of steps, which are also what tars are made from.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Node:
    """A file: kind, attributes, and its content by kind."""

    kind: str
    mode: int
    owner: tuple[int, int]
    mtime: int
    data: bytes = b""
    target: str = ""
    rdev: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(default_factory=dict)
    children: dict[str, Node] = field(default_factory=dict)
    brought: set[str] = field(default_factory=set)


class Refused(Exception):
    """The step cannot be done."""


class Model:
    """A tree that layers are put on."""

    def __init__(self, implied_time: int) -> None:
        self.implied_time = implied_time
        self.root = self._implied()

    def _implied(self) -> Node:
        return Node("directory", 0o755, (0, 0), self.implied_time)

    def begin(self) -> None:
        """Start a layer: nothing was brought by it yet."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            node.brought.clear()
            waiting += node.children.values()

    def folder(self, path: list[str]) -> Node:
        """Find a folder, making what is missing; links are followed."""
        at, trail, left, links = self.root, [self.root], list(path), 0
        while left:
            name = left.pop(0)
            if name in ("", "."):
                continue
            if name == "..":
                trail = trail[:-1] or [self.root]
                at = trail[-1]
                continue
            if name not in at.children:
                at.children[name] = self._implied()
            at.brought.add(name)
            node = at.children[name]
            if node.kind == "symlink":
                links += 1
                if links > 255:
                    raise Refused
                if node.target.startswith("/"):
                    trail = [self.root]
                at, left = trail[-1], node.target.split("/") + left
            elif node.kind == "directory":
                at = node
                trail.append(node)
            else:
                raise Refused
        return at

    def existing(self, path: list[str]) -> Node | None:
        """Find a folder that is there; like folder() without making any."""
        at, trail, left, links = self.root, [self.root], list(path), 0
        while left:
            name = left.pop(0)
            if name in ("", "."):
                continue
            if name == "..":
                trail = trail[:-1] or [self.root]
                at = trail[-1]
                continue
            node = at.children.get(name)
            if node is None:
                return None
            if node.kind == "symlink":
                links += 1
                if links > 255:
                    raise Refused
                if node.target.startswith("/"):
                    trail = [self.root]
                at, left = trail[-1], node.target.split("/") + left
            elif node.kind == "directory":
                at = node
                trail.append(node)
            else:
                raise Refused
        return at

    def put(self, path: list[str], node: Node) -> None:
        """Put a node at a path, in place of what is there."""
        at, name = self.folder(path[:-1]), path[-1]
        old = at.children.get(name)
        if old and old.kind == node.kind == "directory":
            old.mode, old.owner, old.mtime = node.mode, node.owner, node.mtime
            old.xattrs = node.xattrs
        else:
            at.children[name] = node
        at.brought.add(name)

    def link(self, path: list[str], target: list[str]) -> None:
        """Give what is at target another name."""
        at, name = self.folder(path[:-1]), path[-1]
        where = self.existing(target[:-1])
        node = where.children.get(target[-1]) if where else None
        if node is None or node.kind == "directory":
            raise Refused
        if where is at and target[-1] == name:
            raise Refused
        at.children[name] = node
        at.brought.add(name)

    def _hiding(self, path: list[str]) -> Node | None:
        """Find a folder; where there is none, nothing is to be hidden."""
        try:
            return self.existing(path)
        except Refused:
            return None

    def white_out(self, path: list[str]) -> None:
        """Hide what lower layers have at a path."""
        at = self._hiding(path[:-1])
        if at:
            _hide(at, path[-1])

    def opaque(self, path: list[str]) -> None:
        """Hide what lower layers have in a folder."""
        at = self._hiding(path)
        if at:
            for name in list(at.children):
                _hide(at, name)

    def paths(self) -> dict[str, Node]:
        """Return every node by its path."""
        found, waiting = {}, [("", self.root)]
        while waiting:
            path, node = waiting.pop()
            found[path] = node
            waiting += [
                (f"{path}/{name}" if path else name, child)
                for name, child in node.children.items()
            ]
        return found


def _hide(at: Node, name: str) -> None:
    node = at.children.get(name)
    if node is None:
        return
    if name not in at.brought:
        del at.children[name]
    elif node.kind == "directory":
        for below in list(node.children):
            _hide(node, below)
