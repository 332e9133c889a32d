"""Reports as a session leaves them, for the tests of what is made of them."""

import math

import pytest

from conformance import report

VERSIONS = {"jax": "0.12.0", "flax": "0.12.7", "torch": "2.9.0", "numpy": "2.3.5", "timm": "1.0.22"}
FLOORS = {"float64": 1e-15, "float32": 2e-7, "bfloat16": 4e-3, "float16": 5e-4}
MODEL = tuple(name for name in report.FORWARD if name != report.DEFAULT)  # as where there is no GPU
TRAINING = ("loss", "optimizer", "randomness", "trajectory", "trajectory float32")
RUNGS = ("weights", *MODEL, *report.GRADIENTS, *TRAINING)
MUTATION = {"faults": 116, "killed": 115, "placed": 114, "diagnosed": 113, "seconds": 61.5}
DIAGNOSIS = {
    "text": "explained by 'the other GELU' (jax.nn.gelu's default): 4e+08 times its limit without, 0.003 times with it",
    "causes": [{"name": "the other GELU", "seen": "jax.nn.gelu's default"}],
    "before": 4e8,
    "after": 0.003,
}


def tap_names(num_layers):
    layers = [f"encoder/{i:02}{part}" for i in range(num_layers) for part in ("/attention", "/middle", "/mlp", "")]
    return ["patches", "embedding", *layers, "norm", "logits"]


def gradient_names(num_layers):
    leaves = ("norm2/scale", "norm1/scale", "mlp/fc1/kernel", "attention/query/kernel")
    parameters = [f"encoder/{i:02}/{leaf}" for i in reversed(range(num_layers)) for leaf in leaves]
    inputs = [tap for tap in reversed(tap_names(num_layers)) if tap != "logits"]
    return ["head/kernel", *parameters, "patches/conv/kernel", *inputs, "images"]


def names(rung, num_layers):
    if rung.startswith("trajectory"):
        quantities = ("loss",) if rung.endswith("float32") else ("loss", "parameters")
        return [f"step {step:02}/{quantity}" for step in range(1, 11) for quantity in quantities]
    known = {"optimizer": ["adam: head/bias", "adamw: head/bias"], "loss": ["loss", "gradient"]}
    known |= {"randomness": ["draw 00", "embedding, share kept"], "weights": ["head/bias", "head/kernel"]}
    return known.get(rung) or (gradient_names if rung in report.GRADIENTS else tap_names)(num_layers)


def make_diff(rung, tap, mode, i, wrong=False):
    if rung == "randomness":
        return statistic(tap, 0.31 * i)
    if rung == "weights":
        return statistic(tap, 0.0) | {"mode": mode, "limit": 0.0}
    precision = rung.split()[-1] if rung.split()[-1] in FLOORS else "float64"
    floor = FLOORS[precision] * (1 + 0.1 * i * (mode == "free"))
    error = 4.7e-4 if wrong else floor * (1.05 + 0.1 * math.sin(i))
    own = None if precision == "float64" else floor
    return {
        "tap": tap,
        "mode": mode,
        "status": "fail" if wrong else "pass",
        "error": error,
        "reference_error": own,
        "limit": 1e-12 if own is None else 3 * own,
        "ratio": own and error / own,
        "problem": None,
    }


def statistic(tap, share):
    """A comparison that is no error relative to a scale, but a number and its limit."""
    numbers = {"error": 5 * share, "reference_error": None, "limit": 5.0, "ratio": None}
    return {"tap": tap, "mode": "free", "status": "pass" if share <= 1 else "fail", "problem": None} | numbers


def make_rung(name, num_layers, wrong_from=None):
    """A rung whose layers are wrong from one tap on: the MLPs by themselves, the rest in consequence."""
    taps = names(name, num_layers)
    start = taps.index(wrong_from) if wrong_from else math.inf
    diffs = [
        make_diff(name, tap, mode, i, wrong=i >= start and (mode == "free" or tap.endswith("mlp")))
        for i, tap in enumerate(taps)
        for mode in (("alone", "free") if name in (*report.FORWARD, *report.GRADIENTS) else ("free",))
    ]
    status, headline = "pass", None
    if wrong_from:
        status, headline = "fail", f"{wrong_from} diverges: 4.7e-04 of its scale, limit 1.0e-12"
    said = {"headline": headline, "diagnosis": DIAGNOSIS if wrong_from else None}
    return {"rung": name, "status": status, "blocked_by": None, "seconds": 1.23, "diffs": diffs} | said


def make_case(*, subject="vit_ti16", reference="timm:vit_tiny_patch16_224", num_layers=2, wrong_from=None):
    rungs = [make_rung(name, num_layers, wrong_from if name == "float64" else None) for name in RUNGS]
    if wrong_from:
        blocked = {"status": "blocked", "blocked_by": "float64", "seconds": None, "diffs": []}
        rungs[2:] = [rung | blocked for rung in rungs[2:]]
    return {
        "id": f"{subject}-{reference}",
        "verdict": "differs" if wrong_from else "the same",
        "detail": rungs[1]["headline"],
        "subject": subject,
        "reference": reference,
        "image_size": [224, 224],
        "num_layers": num_layers,
        "batch_size": 2,
        "full_depth": 12,
        "seed": 0,
        "rungs": rungs,
    }


def make_report(*cases):
    failed = sum(report.case_failed(case) for case in cases)
    statuses = {rung["status"] for case in cases for rung in case["rungs"]}
    verdict, headline = "pass", "the same model"
    if failed:
        verdict, headline = "fail", f"{failed} of {len(cases)} cases differ from their reference"
    elif "not run" in statuses:
        verdict, headline = "incomplete", "what was run holds: 2 of 20 rungs"
    return {
        "schema_version": 3,
        "created": "2026-11-22T10:00:00+00:00",
        "target": "vit_flax",
        "verdict": verdict,
        "headline": headline,
        "failed_elsewhere": [],
        "environment": {
            "python": "3.12.1",
            "platform": "Linux-6.1-x86_64",
            "device": "cpu",
            "packages": VERSIONS,
            "matmul": {"jax float32": 1.1e-7, "torch float32": 3e-4},
        },
        "images": {"source": "CIFAR-10 (JPEG-75 copy)"},
        "limits": {"float64": 1e-12, "rounding_factor": 3.0},
        "mutation": MUTATION,
        "cases": list(cases),
    }


def lacking(case, *rungs):
    """The same case, of a target that has not what these rungs take."""
    unverified = {"status": "not verified", "headline": "the target has no 'train'", "diffs": [], "seconds": None}
    return case | {"rungs": [rung | unverified if rung["rung"] in rungs else rung for rung in case["rungs"]]}


def changed(case, name, **fields):
    return case | {"rungs": [rung | fields if rung["rung"] == name else rung for rung in case["rungs"]]}


PASSING = make_report(make_case(), make_case(num_layers=12, reference="twin:vit_ti16"))
UNVERIFIED = make_report(
    lacking(make_case(), "trajectory", "trajectory float32"), lacking(make_case() | {"id": "second"}, "trajectory")
)
NOT_RUN = {"status": "not run", "blocked_by": None, "headline": None, "seconds": None, "diffs": []}
UNFINISHED = make_report(
    make_case(),
    changed(
        make_case() | {"id": "second", "verdict": "incomplete", "detail": "1 of 13 rungs not run"}, "loss", **NOT_RUN
    ),
)
FAILING = make_report(make_case(reference="twin:vit_ti16"), make_case(wrong_from="encoder/00/mlp"))
EXAMPLES = pytest.mark.parametrize(
    "example", [PASSING, FAILING, UNVERIFIED, UNFINISHED], ids=["pass", "fail", "unverified", "incomplete"]
)
