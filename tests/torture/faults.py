"""Faults inside a process: patches the points of the table, and kills this process at the k-th passing of one.

The process is the real command; it was only started with this folder's `site/` on its path (see `environment`), so that
Python reads `sitecustomize` first, which calls `install`. Children of the process are tortured as well.

A folder is the remote control: a file named for the point arms it, with k as its content. The process that comes to
the k-th passing removes the file, and so is the only one that dies, writes the point's name into `fired`, and is gone,
by SIGKILL to itself.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import os
import re
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from tests.torture.points import POINTS, Point, When

CONTROL: Final = "GNEXEC_TEST_FAULTS"
"""Variable that names the folder."""
FIRED: Final = "fired"
_ROOT: Final = Path(__file__).resolve().parents[2]


class Faults:
    """The remote control, as the harness holds it."""

    def __init__(self, folder: Path) -> None:
        """Make the folder."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def environment(self) -> dict[str, str]:
        """Return what a process needs to be tortured."""
        return {CONTROL: str(self._folder), "PYTHONPATH": f"{Path(__file__).parent / 'site'}:{_ROOT}"}

    def arm(self, point: Point, k: int = 1) -> None:
        """Have the process that passes `point` for the k-th time from now on die there."""
        aside = self._folder / ".arming"
        aside.write_text(str(k))
        aside.replace(self._folder / slug(point))

    def disarm(self, point: Point) -> bool:
        """Take it back; return False if somebody has died of it already."""
        try:
            (self._folder / slug(point)).unlink()
        except FileNotFoundError:
            return False
        return True

    def armed(self, point: Point) -> bool:
        """Tell whether nobody has died of it yet."""
        return (self._folder / slug(point)).exists()

    def fired(self) -> list[str]:
        """Return the names of the points at which a process has died, in order."""
        log = self._folder / FIRED
        return log.read_text().splitlines() if log.exists() else []


def slug(point: Point) -> str:
    """Return the name of a point's file."""
    return re.sub(r"[^a-z]+", "-", f"{point.of} {point.name}".lower())


def install(folder: Path) -> None:
    """Patch all points in this process, now or as soon as their modules are imported."""
    patches: dict[str, list[Callable[[ModuleType], None]]] = defaultdict(list)
    for place in dict.fromkeys(point.within for point in POINTS if point.within):
        patches[place.partition(":")[0]].append(functools.partial(_replace, place=place, by=_inside))
    for point in POINTS:
        patches[point.target.partition(":")[0]].append(
            functools.partial(_replace, place=point.target, by=functools.partial(_deadly, point, folder))
        )
    for name in [name for name in patches if name in sys.modules]:
        for patch in patches.pop(name):
            patch(sys.modules[name])
    sys.meta_path.insert(0, _Finder(patches))


class _Finder(importlib.abc.MetaPathFinder):
    """Lets modules be found as ever, and patches some once they are loaded."""

    def __init__(self, patches: dict[str, list[Callable[[ModuleType], None]]]) -> None:
        self._patches = patches

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 -- as Python calls it
        target: ModuleType | None = None,  # noqa: ARG002 -- as above
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._patches:
            return None
        patches = self._patches.pop(fullname)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        loader, load = spec.loader, spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            for patch in patches:
                patch(module)

        setattr(loader, "exec_module", exec_module)  # noqa: B010 -- to mypy, a method is for ever
        return spec


_thread = threading.local()


def _inside(place: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Note, for each thread, while a function is at work."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 -- of any function
        depth = _thread.__dict__
        depth[place] = depth.get(place, 0) + 1
        try:
            return function(*args, **kwargs)
        finally:
            depth[place] -= 1

    return wrapper


def _deadly(point: Point, folder: Path, _: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function die where it is told to."""
    trigger = _Trigger(point, folder)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def deadly_async(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 -- of any function
            if point.when is When.BEFORE:
                trigger.passed(args)
            found = await function(*args, **kwargs)
            if point.when is When.AFTER:
                trigger.passed(args)
            return found

        return deadly_async

    @functools.wraps(function)
    def deadly(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 -- of any function
        if point.when is When.BEFORE:
            trigger.passed(args)
        found = function(*args, **kwargs)
        if point.when is When.AFTER:
            trigger.passed(args)
        return found

    return deadly


class _Trigger:
    """Counts the passings of a point since it was armed."""

    def __init__(self, point: Point, folder: Path) -> None:
        self._point = point
        self._file = folder / slug(point)
        self._log = folder / FIRED
        self._count = 0
        self._armed = 0

    def passed(self, args: tuple[Any, ...]) -> None:
        point = self._point
        if point.within and not _thread.__dict__.get(point.within):
            return
        if point.only is not None and not point.only(args):
            return
        try:
            armed = os.stat(self._file).st_mtime_ns  # noqa: PTH116 -- pathlib is patched
        except FileNotFoundError:
            return
        if armed != self._armed:
            self._armed, self._count = armed, 0
        self._count += 1
        with open(self._file, encoding="ascii") as file:  # noqa: PTH123 -- as above
            k = int(file.read())
        if self._count >= k:
            self._die()

    def _die(self) -> None:
        try:
            os.unlink(self._file)  # noqa: PTH108 -- as above
        except FileNotFoundError:
            return  # another process was faster
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(log, f"{self._point.name}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()


def _replace(module: ModuleType, *, place: str, by: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put what `by` makes of a function in its place; an AttributeError says that the table names what is not there."""
    holder: Any = module
    *path, name = place.partition(":")[2].split(".")
    for part in path:
        holder = getattr(holder, part)
    setattr(holder, name, by(place, getattr(holder, name)))
