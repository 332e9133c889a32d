"""What a disk may hold after a power loss: a folder is watched, and at every file operation its worst cases are made.

Nothing is sure but what was synced: of a file, the content as it was then, or none; of a folder, its names as they were
then. Anything since may have reached the disk or not, each file and each name by itself, and a file may be torn. Files
that others write (as Orbax does, from C++) are seen as they are at the next operation, and count as not synced.
"""

import dataclasses
import os
import random
import threading
from pathlib import Path

OPERATIONS = ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir")


@dataclasses.dataclass(eq=False)
class Node:
    """A file or folder: `now` and `sure` are its content, bytes or names."""

    now: bytes | dict
    sure: bytes | dict
    descriptor: int  # held open, so that its number is not given to another


class Disk:
    """Watches a folder while a context lasts; `moments` are the states before each operation, and the last one."""

    def __init__(self, root, monkeypatch):
        self.root, self.monkeypatch = Path(root), monkeypatch
        self.nodes, self.moments, self.lock = {}, [], threading.RLock()
        self.look()
        for node in self.nodes.values():
            node.sure = node.now

    def __enter__(self):
        for name in OPERATIONS:
            self.monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))
        return self

    def __exit__(self, *_):
        self.monkeypatch.undo()
        self.look()
        self.remember("end")
        for node in self.nodes.values():
            os.close(node.descriptor)

    def _watched(self, name, operation):
        def watched(*args, **kwargs):
            with self.lock:
                self.look()
                self.remember(name)
                result = operation(*args, **kwargs)
                if name == "fsync" and (node := self.nodes.get(os.fstat(args[0]).st_ino)):
                    node.sure = node.now
                self.look()
                return result

        return watched

    def look(self):
        self.top = self._look(self.root)

    def _look(self, path):
        number = path.stat().st_ino
        if path.is_dir():
            now = {}
            for child in sorted(path.iterdir()):
                try:
                    now[child.name] = self._look(child)
                except FileNotFoundError:  # renamed by another thread meanwhile
                    continue
        else:
            now = path.read_bytes()
        if number not in self.nodes:
            self.nodes[number] = Node(now, type(now)(), os.open(path, os.O_RDONLY))
        self.nodes[number].now = now
        return number

    def remember(self, operation):
        self.moments.append(Moment(operation, self.top, {n: (node.now, node.sure) for n, node in self.nodes.items()}))


@dataclasses.dataclass
class Moment:
    """What is so and what is sure at one moment."""

    operation: str
    top: int
    nodes: dict

    def unsure(self):
        """What may have reached the disk or not: (folder, name) and file."""
        found = []
        for number, (now, sure) in self.nodes.items():
            if isinstance(now, bytes):
                found += [number] if now != sure else []
            else:
                found += [(number, name) for name in {**now, **sure} if now.get(name) != sure.get(name)]
        return found

    def tree(self, reached):
        """Paths and contents, None for a folder, where `reached(key)` says 0 (lost), 1 (there) or 2 (torn)."""
        tree = {}

        def grow(number, path):
            now, sure = self.nodes[number]
            if isinstance(now, bytes):
                tree[path] = (sure, now, now[: len(now) // 2])[reached(number) if now != sure else 1]
                return
            tree[path] = None
            for name in {**now, **sure}:
                child = now.get(name) if reached((number, name)) else sure.get(name)
                if child is not None:
                    grow(child, f"{path}/{name}")

        grow(self.top, ".")
        return tree

    def worst_cases(self, thorough=False):
        """All lost; all names there, with contents lost or torn; all there; some; and each by itself."""
        unsure = self.unsure()
        cases = [
            lambda key: 0,
            lambda key: int(isinstance(key, tuple)),
            lambda key: 1 if isinstance(key, tuple) else 2,
            lambda key: 1,
        ]
        for seed in range(20 if thorough else 2):
            drawn = random.Random(seed)
            choice = {key: drawn.randrange(2 if isinstance(key, tuple) else 3) for key in unsure}
            cases.append(lambda key, choice=choice: choice.get(key, 1))
        for one in unsure if thorough else ():
            cases.append(lambda key, one=one: int(key == one))
            cases.append(lambda key, one=one: int(key != one))
        return [self.tree(case) for case in cases]


def build(tree, folder):
    for path, content in tree.items():
        if content is None:
            (folder / path).mkdir(parents=True, exist_ok=True)
        else:
            (folder / path).write_bytes(content)


def different(disk, thorough=False):
    """Each state that the disk may be in once, with the moment's number from the end (0: all is over)."""
    seen = {}
    for before_end, moment in enumerate(reversed(disk.moments)):
        for tree in moment.worst_cases(thorough):
            seen.setdefault(tuple(sorted(tree.items())), (before_end, tree))
    return list(seen.values())
