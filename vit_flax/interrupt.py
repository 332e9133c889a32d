"""Ctrl-C and SIGTERM stop a run between two steps; given a second time, at once."""

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SHELL = 128  # added to a signal's number, the exit status by which shells know it


@dataclasses.dataclass
class Interruption:
    """Whether a signal has come, by the exit status under which shells know it; 0: none has."""

    status: int = 0

    def __bool__(self) -> bool:
        return self.status != 0


@contextlib.contextmanager
def interruptible(announce: Callable[[], None]) -> Iterator[Interruption]:
    """What has come while the context lasts; `announce()` is called with the first, the second ends the process.

    Python calls its handlers only once it is back from XLA, which may be a minute later. So a thread listens instead.
    Outside the main thread, where Python has no handlers, nothing comes.
    """
    found = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return

    def listen() -> None:
        while number := os.read(reader, 1):
            if number[0] not in SIGNALS:
                continue
            if found:
                os._exit(SHELL + number[0])  # no checkpoint is harmed
            found.status = SHELL + number[0]
            announce()

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    handlers = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    before = signal.set_wakeup_fd(writer)
    try:
        yield found
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(writer)  # which ends the listener
        listener.join()
        os.close(reader)
