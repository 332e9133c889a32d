"""The verdict in JUnit's XML: a property of the test suite, and a test case of its own that passes if it is a pass.

So whoever counts failures there comes to the verdict, even where no single test failed: a run that is incomplete.
"""

from typing import Any

import pytest
from _pytest.junitxml import xml_key

NODEID = "conformance::verdict"


def tell(config: pytest.Config, result: dict[str, Any]) -> None:
    xml = config.stash.get(xml_key, None)
    if xml is None:  # no --junitxml
        return
    for name in ("target", "verdict", "headline"):
        xml.add_global_property(name, result[name])
    said = f"{result['verdict'].upper()}  {result['headline']}"
    match result["verdict"]:
        case "pass":
            xml.pytest_runtest_logreport(_report("call"))
        case "fail":
            xml.pytest_runtest_logreport(_report("call", failure=said))
        case _:
            xml.pytest_runtest_logreport(_report("setup", failure=said))  # which JUnit calls an error
    xml.pytest_runtest_logreport(_report("teardown"))


def _report(when: Any, failure: str | None = None) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=NODEID,
        location=("conformance", None, "verdict"),
        keywords={},
        outcome="failed" if failure else "passed",
        longrepr=failure,
        when=when,
    )
