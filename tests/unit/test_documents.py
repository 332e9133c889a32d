"""What the docs tell people to type is run: the page of the Python API, and the notebook."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGE, NOTEBOOK = DOCS / "python.md", DOCS / "digits.ipynb"


def blocks_of(page):
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def cells_of(notebook):
    """The code of its cells, but for those that install something."""
    cells = json.loads(notebook.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return [source for source in code if not source.startswith("%pip install")]


def run(parts, name):
    names = {"__name__": name}
    for number, part in enumerate(parts):
        exec(compile(part, f"{name}, part {number + 1}", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)


def test_the_page_of_the_python_api_does_what_it_says(capsys):
    names = run(blocks_of(PAGE), PAGE.name)

    shown = capsys.readouterr().out
    assert names["result"]["test_acc"] > 0.5  # of ten digits, after four epochs
    assert shown.splitlines()[3].endswith(" 1.0")  # bright or dark: no image is mistaken
    assert names["shares"].shape == (1, 10)
    kernel = names["weights"]["head/kernel"]
    np.testing.assert_array_equal(names["tree"]["params"]["head"]["kernel"], kernel)


def test_the_notebook_goes_from_nothing_to_a_predicted_digit(capsys):
    names = run(cells_of(NOTEBOOK), NOTEBOOK.name)

    assert names["result"]["test_acc"] > 0.9
    assert names["found"].split()[0] == str(names["label"])


def test_no_block_is_overlooked():
    for page, parts in ((PAGE, blocks_of(PAGE)), (NOTEBOOK, cells_of(NOTEBOOK))):
        assert len(parts) > 3
        assert sum(part.count("import") for part in parts) == len(re.findall(r"\bimport\b", page.read_text())), page


def test_a_block_that_fails_fails_the_test():
    with pytest.raises(ValueError, match="unknown preset 'digit'"):
        run(["from vit_flax.config import preset", "preset('digit')"], "a page")
