"""What the benchmarks stand on: fair turns, honest ratios, a count of operations, and a page made from records."""

import itertools
import json

import jax
import jax.numpy as jnp
import pytest

from tests.benchmark import race as racing
from tests.benchmark.flops import forward_flops, train_flops
from tests.benchmark.race import Replay, best_of, race, ratio
from tests.benchmark.records import combined, newest_ratios
from tests.benchmark.report import END, PAGE, by_device, page
from vit_flax import ViT, model, preset, train
from vit_flax.environment import environment
from vit_flax.recipe import recipe


@pytest.fixture(autouse=True)
def restless(monkeypatch):
    monkeypatch.setattr(racing, "REST", 0.0)


def test_everyone_runs_once_a_round_and_the_order_turns():
    order = []
    times = race({name: lambda name=name: order.append(name) for name in "abc"}, seconds=0.0, rounds=(4, 9))
    assert "".join(order) == "abccbaabccba"
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 4, "b": 4, "c": 4}


def test_a_race_ends_when_its_time_is_over(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(racing.time, "perf_counter", lambda: next(ticks))
    times = race({"a": lambda: None}, seconds=20, rounds=(2, 1000))
    assert len(times["a"]) == 8  # three looks at the clock a round
    assert set(times["a"]) == {1}


def test_a_ratio_is_that_of_the_rounds_and_survives_drift():
    """The machine slows down tenfold half-way: the medians of the times would say nothing."""
    times = {"vit_flax": [1.0, 1.0, 10.0, 10.0, 10.0], "other": [2.0, 2.0, 20.0, 20.0, 20.0]}
    assert ratio(times, "other") == 2.0
    assert ratio(times, "vit_flax", ours="other") == 0.5


def test_the_best_is_the_fastest_of_the_others():
    assert best_of({"vit_flax": 1.0, "slow": 3.0, "fast": 2.0}) == "fast"


def test_a_replayed_clock_tells_the_recorded_seconds():
    clock = Replay()
    clock.load([0.5, 0.25])
    readings = [clock()]
    for _ in range(2):
        clock.run()
        readings.append(clock())
    assert readings == [0.0, 0.5, 0.75]


@pytest.mark.parametrize("name", ("article-p4", "vit_ti16"))
def test_operations_are_counted_as_xla_counts_them(name):
    """XLA also counts what is not a product: norms, softmax, activations. Backwards it saves the images' gradient."""
    config = preset(name).replace(num_layers=2, dropout=0.0, attention_dropout=0.0)
    images = jnp.zeros((4, *config.image_size, config.channels))
    params = jax.eval_shape(lambda: ViT(config).init(jax.random.key(0), images)["params"])

    def loss(params, images):
        return ViT(config).apply({"params": params}, images).sum()

    def counted(function):
        return jax.jit(function).lower(params, images).cost_analysis()["flops"] / len(images)

    assert 1.0 <= counted(loss) / forward_flops(config) < 1.06
    assert 0.97 <= counted(jax.grad(loss)) / train_flops(config) < 1.06


def moved(config):
    """Bytes that a training step reads and writes."""
    images = jnp.zeros((64, *config.image_size, config.channels))
    made, params, rng = train.initialize_model(config, seed=0)
    state = train.create_train_state(made, params, rng, recipe("digits"), steps_per_epoch=1)
    step = jax.jit(lambda state, batch: train.train_step(state, batch))
    batch = train.Batch(images, jnp.zeros((64, config.num_classes)))
    return step.lower(state, batch).compile().cost_analysis()["bytes accessed"]


def growth():
    config = preset("digits")
    return moved(config.replace(num_layers=12)) / moved(config.replace(num_layers=6))


@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="XLA of jax 0.10.2 drops the barrier before it fuses")
def test_twice_the_layers_move_twice_the_bytes_and_would_not_were_the_sums_not_stored(monkeypatch):
    assert growth() < 2
    monkeypatch.setattr(model, "stored", lambda x: x)
    assert growth() > 2.2


def test_the_page_is_made_from_the_records():
    text = PAGE.read_text()
    assert page(text) == text
    assert page(text.replace(END, f"typed by hand {END}")) == text


def test_records_are_combined_race_by_race_and_keep_the_highest_peaks():
    def entry(name, group, **info):
        return {"name": name, "group": group, "extra_info": info, "stats": {"median": 1.0}}

    def record(peak, copy, *benchmarks):
        return {"peaks": {"matmul": {"float32": peak}, "copy": copy}, "benchmarks": list(benchmarks)}

    older = record(9.0, 1.0, *(entry(name, "race", contestant=name) for name in "ab"), entry("growth[depth]", "growth"))
    newer = record(8.0, 2.0, entry("a", "race", contestant="a"), entry("growth[batch]", "growth"))
    together = combined([older, newer])
    assert {benchmark["name"] for benchmark in together["benchmarks"]} == {"a", "growth[depth]", "growth[batch]"}
    assert together["peaks"] == {"matmul": {"float32": 9.0}, "copy": 2.0}


def test_the_device_last_raced_on_comes_first_and_its_oldest_record_too():
    found = [{"environment": {"device": name}, "created": day} for name, day in ("a1", "b2", "b3")]
    assert {name: [record["created"] for record in of] for name, of in by_device(found).items()} == {
        "b": ["2", "3"],
        "a": ["1"],
    }
    assert list(by_device(found)) == ["b", "a"]


def test_only_records_of_this_kind_of_device_count(tmp_path):
    benchmark = {"group": "heat", "stats": {"median": 1.0}}
    sides = {"vit_flax": 1.0, "slow": 3.0, "fast": 1.5}
    record = {
        "environment": {"device": "another"},
        "benchmarks": [
            benchmark | {"extra_info": {"contestant": name, "vit_flax_is_times_as_fast": r}, "stats": {"median": r}}
            for name, r in sides.items()
        ],
    }
    file = tmp_path / "1-speed-x.json"
    file.write_text(json.dumps(record))
    assert newest_ratios(tmp_path) == {}
    record["environment"] = environment()
    file.write_text(json.dumps(record))
    assert newest_ratios(tmp_path) == {"heat": 1.5}
