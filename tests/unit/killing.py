"""Train runs whose process is killed again and again: `python -m tests.unit.killing FOLDER KILLS SEED OPTION...`.

OPTIONs are those of `vit-flax train`. Runs are kept as FOLDER/0 and so on, all complete but the last; the last one is
completed, too. Prints how often it killed, by how: at any moment, inside a save, or before a file operation; and how
often it sent SIGINT and SIGTERM, at any moment.

Each training is a fork of this process, which has imported everything and not yet started JAX.
"""

import contextlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.unit.power_loss import OPERATIONS
from vit_flax import commands, train  # noqa: F401 (which `main` would import in each fork)
from vit_flax.cli import main
from vit_flax.config import PRESETS

HOW = {
    "moment": signal.SIGKILL,
    "save": signal.SIGKILL,
    "operation": signal.SIGKILL,
    "interrupt": signal.SIGINT,
    "terminate": signal.SIGTERM,
}
MOST_SECONDS = 300  # that one training may take


def start(out, options, die_before=None):
    """The id of a process that trains; it kills itself before that file operation."""
    resume = ["--resume"] if (out / "run.json").exists() else []
    if pid := os.fork():
        return pid
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    PRESETS["digits"] = PRESETS["digits"].replace(num_layers=1)
    train.STEPS_PER_CALL = 2  # so that an epoch has several calls
    if die_before is not None:
        die_before_operation(die_before)
    os._exit(main(["train", *options, "--out", str(out), *resume]))


def die_before_operation(number):
    left = [number]

    def deadly(operation):
        def counted(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*args, **kwargs)

        return counted

    for name in OPERATIONS:
        setattr(os, name, deadly(getattr(os, name)))


def ended(pid):
    """The exit status of a process, negative for a signal; None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def wait_for(pid, condition):
    """Until the condition is met or the process has ended: its exit status, or None."""
    until = time.monotonic() + MOST_SECONDS
    while (status := ended(pid)) is None and not condition():
        assert time.monotonic() < until, "a training takes too long"
        time.sleep(0.0005)
    return status


def end(pid, number):
    """Send a signal, and wait for the exit status."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def inside_a_save(out):
    return last_changed(out) is not None


def last_changed(out):
    """When the folder was that a save is written to; None if there is none."""
    with contextlib.suppress(FileNotFoundError):
        return (out / "checkpoints/part").stat().st_ctime_ns


def kill_once(how, out, options, rng):
    """Train, and kill in that way: the exit status, and whether it was inside a save."""
    if how == "operation":
        pid = start(out, options, die_before=rng.randrange(120))
        return wait_for(pid, lambda: False), inside_a_save(out)
    left = last_changed(out)  # by a save that was killed
    pid = start(out, options)
    # Most of a process's life is spent before it trains: begin to count once it saves.
    if (status := wait_for(pid, lambda: last_changed(out) not in (None, left))) is not None:
        return status, False
    if how == "save":
        for _ in range(rng.randrange(3)):  # not always the first
            wait_for(pid, lambda: not inside_a_save(out))
            if (status := wait_for(pid, lambda: inside_a_save(out))) is not None:
                return status, False
        time.sleep(rng.uniform(0, 0.05))
    else:
        time.sleep(rng.uniform(0, 1))
    return end(pid, HOW[how]), inside_a_save(out)


def run(folder, kills, seed, options):
    rng = random.Random(seed)
    counts = dict.fromkeys(HOW, 0) | {"inside a save": 0, "complete": 0}
    number = 0
    while sum(counts[how] for how in HOW) < kills:
        how = rng.choice(list(HOW))
        out = folder / str(number)
        status, inside = kill_once(how, out, options, rng)
        if status == 0:
            number += 1
            counts["complete"] += 1
            continue
        expected = -HOW[how] if HOW[how] == signal.SIGKILL else 128 + HOW[how]
        assert status == expected, f"{how}: exit status {status}, see {out.with_suffix('.log')}"
        counts[how] += 1
        counts["inside a save"] += inside and HOW[how] == signal.SIGKILL
    status = wait_for(start(folder / str(number), options), lambda: False)
    assert status == 0, f"the last one: exit status {status}"
    return counts


if __name__ == "__main__":
    folder, kills, seed, *options = sys.argv[1:]
    print(json.dumps(run(Path(folder), int(kills), int(seed), options)))
