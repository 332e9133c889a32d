"""Several processes, one ladder: each case is climbed by one of them, and what it finds is told rung by rung.

pytest-xdist's scheduler sees the ids of tests and nothing else, so a worker writes case and rung at the end of each id.
"""

import base64
import pickle
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conformance.session import News

# An id ends in a test's name or in a bracket of its own: neither can be taken for this.
SUFFIX = re.compile(r"@(?P<case>[^@:/\[\]]+)/(?P<rung>[^@:/\[\]]+)$")
Place = tuple[str, str]  # the case's name, the rung's


def is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def mark(item: pytest.Item, place: Place) -> None:
    """Write into a test's id where on the ladder it is."""
    case, rung = place
    item._nodeid = f"{item.nodeid}@{case}/{rung}"  # type: ignore[attr-defined]  # as pytest-xdist marks its groups


def place_of(nodeid: str) -> Place | None:
    found = SUFFIX.search(nodeid)
    return (found["case"], found["rung"]) if found else None


def unmarked(nodeid: str) -> str:
    """The id as the user knows it, and can run it by."""
    return SUFFIX.sub("", nodeid)


def never_restart(config: pytest.Config) -> None:
    """A worker that died would die again of the same test, unless the user thinks otherwise."""
    if getattr(config.option, "maxworkerrestart", "absent") is None:
        config.option.maxworkerrestart = "0"


def packed(news: "News") -> str:
    """Text, as other plugins may write a report's attributes to a file."""
    return base64.b64encode(pickle.dumps(news)).decode()


def unpacked(text: str) -> "News":
    return pickle.loads(base64.b64decode(text))


def scheduler(config: pytest.Config, log: Any) -> Any:
    """One process climbs a case, or has all tests of another file: what they share is made once."""
    from xdist.scheduler import LoadScopeScheduling

    class CaseOrFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            place = place_of(nodeid)
            return f"case {place[0]}" if place else nodeid.partition("::")[0]

        def remove_node(self, node: Any) -> str | None:
            """What a death leaves undone of a case is given to no other process: it would die of it as well."""
            scopes = self.assigned_work[node]
            for scope, tests in scopes.items():
                undone = [nodeid for nodeid, done in tests.items() if not done]
                if undone and place_of(undone[0]):
                    del scopes[scope]
                    super().remove_node(node)
                    return undone[0]
                if undone:
                    break
            return super().remove_node(node)

    return CaseOrFile(config, log)
