"""The article's headline, test accuracy 0.7704 on CIFAR-10; without a GPU, as far as a quarter of an hour goes."""

import pytest

from conformance.tables import RESULTS
from vit_flax.data import read_data
from vit_flax.settings import write_json
from vit_flax.settlement import record_name, train_seeds

SEEDS = (0, 1, 2)


@pytest.mark.slow
def test_the_printed_recipe_earns_its_accuracy(pytestconfig, tmp_path):
    options = pytestconfig.option
    if options.data is None:
        pytest.fail("this test trains on CIFAR-10: give its folder with --data or VIT_DATA")
    preset, stop_after, expected = ON_GPU if options.gpu else ON_CPU
    record = train_seeds(preset, "article", SEEDS, read_data(options.data), options.data, tmp_path, stop_after)
    write_json(RESULTS / record_name(record), record)
    for run in record["runs"]:
        print(run["seed"], run["test_acc"], [round(epoch["val/acc"], 4) for epoch in run["history"]])
    print(record["environment"]["device"], record["seconds"], record["images_per_second"])
    assert record["mean"] >= expected
