"""Asking a target: what it does wrong meanwhile is told in a sentence, and is never taken for our own doing."""

import contextlib
import functools
import os
import signal
import site
import sys
import sysconfig
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from conformance.printable import printable

if TYPE_CHECKING:
    from conformance.rungs import Target
    from vit_flax.config import ViTConfig

PACKAGE = Path(__file__).parent.parent
OURS = tuple(f"{PACKAGE / name}{os.sep}" for name in ("conformance", "vit_flax", "reference"))
INSTALLED = tuple({*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("purelib")})
ANSWER_ARRAYS = ("taps", "held", "drawn", "initial", "clip")  # by name
STDLIB = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))


class CannotBuild(ValueError):
    """The factory refused the config, which is its right: a declaration, not a failure. As `ValueError` it came."""


class CannotRun(Exception):
    """The target has not what it takes to compute this, and said so."""


class Crash(Exception):
    """Any other exception of the target; `where` is what two crashes with one cause have in common."""

    def __init__(self, error: BaseException) -> None:
        frame = _users_frame(error)
        super().__init__(f"{type(error).__name__}: {printable(str(error))}{_place(frame)}")
        self.where = (type(error).__name__, frame and frame.filename, frame and frame.lineno)
        self.trace = "\n".join(
            printable(line) for part in traceback.format_exception(error) for line in part.splitlines()
        )


class Late(BaseException):
    """Time is up. Not an `Exception`, so that no target catches it."""


class Exited(BaseException):
    """The target called `os._exit`, which would have ended the session, and with its own exit status."""


class Asked:
    """A side whose every failure is one of the exceptions above; `unanswered` holds the calls that are under way."""

    def __init__(self, side: Any, unanswered: set[object]) -> None:
        self._side, self._unanswered = side, unanswered

    def __getattr__(self, name: str) -> Any:
        try:
            value = getattr(self._side, name)
        except (AttributeError, KeyboardInterrupt, Late):
            raise
        except BaseException as error:
            raise _told(error) from error
        if not callable(value):
            return value
        return functools.partial(_ask, _checked(name, value) if name in ANSWER_ARRAYS else value, self._unanswered)


def asked(target: "Target", unanswered: set[object]) -> "Target":
    """The same target, asked with care."""

    def build(config: "ViTConfig") -> Asked:
        try:
            return Asked(_ask(target, unanswered, config), unanswered)
        except Crash as crash:
            if isinstance(crash.__cause__, ValueError):
                raise CannotBuild(printable(str(crash.__cause__))) from crash.__cause__
            raise

    return build


def _checked(name: str, method: Any) -> Any:
    """The method, held to its contract: judging would stumble over anything else, and we would blame ourselves."""

    def ask(*arguments: Any, **named: Any) -> Any:
        answer = method(*arguments, **named)
        if not isinstance(answer, Mapping):
            raise TypeError(f"{name} returned {type(answer).__name__}, not a dict of arrays")
        for key, value in answer.items():
            if not isinstance(key, str) or not hasattr(value, "dtype"):
                raise TypeError(f"{name} returned {type(value).__name__} as {key!r}, not an array under a name")
        return answer

    return ask


def _ask(function: Any, unanswered: set[object], *arguments: Any, **named: Any) -> Any:
    token = object()
    unanswered.add(token)
    _here.asking = True
    try:
        answer = function(*arguments, **named)
    except (KeyboardInterrupt, Late):
        raise  # and it stays unanswered
    except BaseException as error:
        unanswered.discard(token)
        raise _told(error) from error
    finally:
        _here.asking = False
    unanswered.discard(token)
    return answer


def _told(error: BaseException) -> CannotRun | Crash:
    unimplemented = isinstance(error, RuntimeError) and "not implemented for" in str(error)  # PyTorch
    unimplemented |= isinstance(error, TypeError) and "np.ndarray of type ml_dtypes." in str(error)  # PyTorch, too
    unimplemented |= type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and "UNIMPLEMENTED" in str(error)
    if isinstance(error, NotImplementedError) or unimplemented:
        return CannotRun(printable(str(error)) or type(error).__name__)
    return Crash(error)


def _users_frame(error: BaseException) -> traceback.FrameSummary | None:
    """The last line of the user's own code on the way to the error; of an installed target, the first that is not ours.

    Where there is neither, as in `vit_flax` itself, the last line of all.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    frames = [frame for frame in frames if frame.filename != __file__]  # where it was asked, not where it went wrong
    users, installed = [], []
    for frame in frames:
        if frame.filename.startswith(OURS):
            continue
        if frame.filename.startswith(INSTALLED):  # which may lie inside the standard library's folder
            installed.append(frame)
        elif not frame.filename.startswith(STDLIB):
            users.append(frame)
    return next(iter([*reversed(users), *installed, *reversed(frames)]), None)


def _place(frame: traceback.FrameSummary | None) -> str:
    if frame is None:
        return ""
    path = Path(frame.filename)
    near = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f" ({printable(str(near))}:{frame.lineno}, in {frame.name})"


# os._exit leaves no time for a verdict. It is refused while a rung is climbed, and for ever in a thread of ours that
# a target holds up. A process that the target forked may end itself.
_here = threading.local()
_climbing = 0
_exit, _process = os._exit, os.getpid()


def _refuse(status: int) -> Any:
    if os.getpid() == _process and (_climbing or getattr(_here, "asking", False)):
        raise Exited(f"os._exit({status})")
    _exit(status)


@contextlib.contextmanager
def no_exit() -> Iterator[None]:
    """`os._exit` raises `Exited`."""
    global _climbing, _process
    os._exit, _process = _refuse, os.getpid()
    _climbing += 1
    try:
        yield
    finally:
        _climbing -= 1


@contextlib.contextmanager
def warnings_stay_warnings() -> Iterator[None]:
    """A warning of somebody else's library is shown, and ends nothing, whatever filters the session has.

    For a whole rung: the filters belong to the process, and a target may run on a thread beside the reference's.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


@contextlib.contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Raise `Late` in the main thread once that time has passed; for ever, if None."""
    if seconds is None:
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise Late(f"{seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def can_be_timed() -> bool:
    return sys.platform != "win32"
