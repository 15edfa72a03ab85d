"""docs/models.md has every published model with what the catalogue says of it, and the tests that prove it."""

import ast

import pytest

from dev.docs import models
from easyanim_server import catalog
from easyanim_server.domain import published

TESTS = sorted({test for proof in models.PROOFS for test in proof.tests})


def row(model: str) -> str:
    return {line.split("`")[1]: line for line in models.table().splitlines()[2:]}[model]


def test_the_page_has_the_catalogues_tables() -> None:
    assert models.PAGE.read_text(encoding="utf-8") == models.page(), "python -m dev.docs.models write"


def test_models_that_are_refused_have_no_task() -> None:
    assert row("alibaba-pai/EasyAnimateV5.1-7b-zh-InP").count("| yes (") == 3
    assert row("alibaba-pai/EasyAnimateV5.1-12b-zh-diffusers").count("| yes (") == 1
    refused = row("alibaba-pai/EasyAnimateV5.1-12b-zh-Control-Camera")
    assert "| not yet (" in refused
    assert "yes" not in refused


def test_every_cell_has_a_proof_and_every_proof_of_cells_has_a_cell() -> None:
    used = set()
    for model in published.PUBLISHED:
        known = catalog.find(model.id)
        tasks = known.capabilities.tasks if known else {models.FOLLOWS}
        used |= {models.proof_of(model, task) for task in tasks}

    assert used == {number for number, proof in enumerate(models.PROOFS, start=1) if proof.tasks}


def test_a_model_that_nothing_proves_is_refused() -> None:
    model = next(item for item in published.PUBLISHED if item.kind == "text-to-video")
    with pytest.raises(LookupError, match=r"no test is named that proves start of EasyAnimateV5\.1-7b-zh"):
        models.proof_of(model, "start")


@pytest.mark.parametrize("test", TESTS)
def test_the_tests_that_are_named_exist(test: str) -> None:
    file, _, rest = test.partition("::")
    name, _, case = rest.removesuffix("]").partition("[")
    tree = ast.parse((models.ROOT / file).read_text(encoding="utf-8"))

    assert name in {item.name for item in tree.body if isinstance(item, ast.FunctionDef)}
    # A case's name is among the texts of its file.
    assert not case or case in {item.value for item in ast.walk(tree) if isinstance(item, ast.Constant)}
