"""docs/models.md has every published model with what the catalogue says of it."""

from dev.docs import models


def test_the_page_has_the_catalogues_table() -> None:
    assert models.PAGE.read_text(encoding="utf-8") == models.page(), "python -m dev.docs.models write"


def test_models_that_are_refused_have_no_task() -> None:
    rows = {line.split("`")[1]: line for line in models.table().splitlines()[2:]}

    assert "| yes | yes | yes |" in rows["alibaba-pai/EasyAnimateV5.1-7b-zh-InP"]
    assert "| yes |  |  |" in rows["alibaba-pai/EasyAnimateV5.1-12b-zh-diffusers"]
    assert "| not yet |  |  |" in rows["alibaba-pai/EasyAnimateV5.1-12b-zh-Control-Camera"]
