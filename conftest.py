"""The suite's options and report, for every pytest run in this repository."""

pytest_plugins = ["conformance.plugin"]
