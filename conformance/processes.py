"""Several processes, one ladder: each case is climbed by one of them, and what it finds is told rung by rung.

pytest-xdist's scheduler sees the ids of tests and nothing else, but an id ends in those of the test's parameters, and
the plugin itself has made the case's. (To write more into an id takes private names of pytest, which have changed.)
"""

import base64
import pickle
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conformance.session import News

Place = tuple[str, str]  # the case's name, the rung's


def is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def parameter_of(nodeid: str, names: Iterable[str]) -> str | None:
    """Which of the names is a parameter of the test with that id, the longest if several are; None if none is.

    >>> parameter_of("test_loss.py::test_rule[digits-twin-8x8-depth12-loss]", ["digits-twin-8x8-depth1", "loss"])
    'loss'
    """
    found = [name for name in names if re.search(rf"[\[-]{re.escape(name)}[-\]]", nodeid)]
    return max(found, key=len, default=None)


def place_of(nodeid: str, cases: Sequence[str]) -> Place | None:
    """Where on the ladder a test is, by its id."""
    from conformance.rungs import NAMES

    case, rung = parameter_of(nodeid, cases), parameter_of(nodeid, NAMES)
    return (case, rung) if case and rung else None


def never_restart(config: pytest.Config) -> None:
    """A worker that died would die again of the same test, unless the user thinks otherwise."""
    if getattr(config.option, "maxworkerrestart", "absent") is None:
        config.option.maxworkerrestart = "0"


def packed(news: "News") -> str:
    """Text, as other plugins may write a report's attributes to a file."""
    return base64.b64encode(pickle.dumps(news)).decode()


def unpacked(text: str) -> "News":
    return pickle.loads(base64.b64decode(text))


def scheduler(config: pytest.Config, log: Any, cases: Sequence[str]) -> Any:
    """One process climbs a case, plants a rung's faults, or runs another file: what its tests share is made once."""
    from xdist.scheduler import LoadScopeScheduling

    from conformance.catalogue import FAULTS

    rung_of = {fault.name: fault.rung for fault in FAULTS}

    class CaseRungOrFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if case := parameter_of(nodeid, cases):
                return f"case {case}"
            file = nodeid.partition("::")[0]
            if file.endswith("test_faults.py") and (fault := parameter_of(nodeid, rung_of)):
                return f"{file}, {rung_of[fault]}"
            return file

        def remove_node(self, node: Any) -> str | None:
            """What a death leaves undone of a case is given to no other process: it would die of it as well."""
            scopes = self.assigned_work[node]
            for scope, tests in scopes.items():
                undone = [nodeid for nodeid, done in tests.items() if not done]
                if undone and parameter_of(undone[0], cases):
                    del scopes[scope]
                    super().remove_node(node)
                    return undone[0]
                if undone:
                    break
            return super().remove_node(node)

    return CaseRungOrFile(config, log)
