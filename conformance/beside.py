"""A thread for what is computed beside something else, and for which nobody ever has to wait."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any


class Beside:
    """Calls made one after another on a daemon thread, while the caller goes on.

    An executor would do, were it not for targets that hang: leaving it, and leaving Python, wait for its threads.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Future, Callable[[], Any]] | None] = queue.SimpleQueue()
        self._left = False

    def submit(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Future:
        future: Future = Future()
        self._calls.put((future, lambda: function(*arguments, **named)))
        return future

    def __enter__(self) -> "Beside":
        threading.Thread(target=self._work, name="beside", daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._left = True  # what has not begun will not
        self._calls.put(None)

    def _work(self) -> None:
        while (work := self._calls.get()) is not None and not self._left:
            future, call = work
            try:
                answer = call()
            except BaseException as error:
                future.set_exception(error)
            else:
                del work, call  # or this thread still holds a side when whoever waits has let go of it
                future.set_result(answer)
