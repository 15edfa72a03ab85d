"""`make quality`: what it writes, keeps, goes on with and says, with a simulated model and with the engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dev.quality import __main__ as command
from dev.quality import tables
from dev.quality.cases import Photographs
from dev.quality.harness import Options
from dev.quality.settings import DEFAULT, PROFILE_SETTINGS, REFERENCE, Setting
from dev.train_demo.pictures import draw_textures
from easyanim_server.domain.job import Bucket
from easyanim_server.domain.profiles import Acceleration, Solver
from easyanim_server.engine.weights import checkpoint
from tests.simulated_model import SimulatedModel

pytestmark = pytest.mark.long

BETTER = Setting(24, Acceleration(Solver.DPMPP_2M))
OPTIONS = Options(
    (Bucket.parse("48x48x9"), Bucket.parse("48x64x9")), cases=10, confirmed=6, compared=4, grid_cases=2, shown=2,
    seconds=600, grid=(*PROFILE_SETTINGS.values(), BETTER),
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-ins for photographs."""
    made: Path = tmp_path_factory.mktemp("pictures")
    textures = draw_textures(3, 340, torch.Generator().manual_seed(1))
    for number, texture in enumerate((textures * 255).byte().permute(0, 2, 3, 1).numpy()):
        Image.fromarray(texture).save(made / f"{number}.png")
    return made


@pytest.fixture(scope="module")
def photographs(folder: Path) -> Photographs:
    return Photographs(folder)


def measure(model: SimulatedModel, photographs: Photographs, out: Path, options: Options = OPTIONS) -> bool:
    places = command.Places.of("simulated", out)
    return command.run(model, photographs, options, places, "the command", say=lambda text: None)


def document(out: Path) -> dict[str, list[dict[str, object]]]:
    read: dict[str, list[dict[str, object]]] = json.loads((out / "quality.json").read_text())
    return read


@pytest.fixture(scope="module")
def measured(photographs: Photographs, tmp_path_factory: pytest.TempPathFactory) -> tuple[SimulatedModel, Path]:
    """A whole run, of which an object and a zoom stand still; and its folder."""
    out: Path = tmp_path_factory.mktemp("out")
    model = SimulatedModel(photographs, wrong={2, 4})
    assert measure(model, photographs, out)
    return model, out


def test_a_run_measures_everything_and_the_next_one_makes_nothing(
    photographs: Photographs, measured: tuple[SimulatedModel, Path]
) -> None:
    model, out = measured
    first, made = document(out), set(model.rendered)
    again = SimulatedModel(photographs)
    assert measure(again, photographs, out)

    assert len(made) == len(model.rendered)  # nothing was made twice
    assert {index for name, index in made if name == DEFAULT.name} == set(range(10))
    assert {index for name, index in made if name == PROFILE_SETTINGS["fast"].name} == set(range(6))
    assert {index for name, index in made if name == REFERENCE.name} == set(range(4))
    assert again.rendered == []
    assert first["rows"] == document(out)["rows"]
    report = tables.Report.read(out / "quality.json")
    judged = {row["index"]: row["agrees"] for row in report.summary.videos(DEFAULT)}
    assert [index for index, agrees in judged.items() if not agrees] == [2, 4]


def test_the_report_names_targets_profiles_and_what_the_rules_would_choose(
    measured: tuple[SimulatedModel, Path],
) -> None:
    _, out = measured
    text = (out / "report.md").read_text()

    for heading in ("### Motion", "### Pictures", "### Looks", "### Steps", "### Profiles", "### The front"):
        assert heading in text
    assert (
        "motion goes where the prompt says, and as far within 40 %: English | ≥ 90 % | 60.0 % | **missed** | 5 |"
        in text
    )
    assert "within 40 %: Chinese | ≥ 90 % | 100.0 % | met | 5 |" in text
    assert "| `balanced` | unipc 25 | 50.0 |" in text
    assert f"| {BETTER.name}: 48.0 predictions," in text  # simulated as the equal of 25 with fewer
    assert "not measured" not in text
    assert tables.NOT_MEASURED not in text
    with Image.open(out / "sheet.jpg") as sheet, Image.open(out / "quality.png") as plot:
        assert np.asarray(sheet).std() > 20
        assert plot.size[0] > 1000


def test_a_run_that_is_out_of_time_says_so_and_the_next_goes_on(photographs: Photographs, tmp_path: Path) -> None:
    begun = SimulatedModel(photographs)

    assert not measure(begun, photographs, tmp_path, replace(OPTIONS, seconds=0.0))
    assert begun.rendered == []
    assert "not measured" in (tmp_path / "report.md").read_text()
    assert measure(SimulatedModel(photographs), photographs, tmp_path, replace(OPTIONS, grid=(), confirmed=1))
    rest = SimulatedModel(photographs)
    assert measure(rest, photographs, tmp_path)
    assert {name for name, _ in rest.rendered} == {
        BETTER.name, PROFILE_SETTINGS["fast"].name, PROFILE_SETTINGS["draft"].name,
    }  # fmt: skip


def test_rows_of_another_model_are_dropped(photographs: Photographs, tmp_path: Path) -> None:
    few = replace(OPTIONS, cases=2, compared=1, grid=())
    measure(SimulatedModel(photographs), photographs, tmp_path, few)
    other = SimulatedModel(photographs, answer="other weights")

    assert measure(other, photographs, tmp_path, few)
    assert len(other.rendered) == len([row for row in document(tmp_path)["rows"] if row["what"] == "video"]) > 2


def test_more_cases_are_compared_when_more_are_asked_for(photographs: Photographs, tmp_path: Path) -> None:
    few = replace(OPTIONS, cases=3, compared=1, confirmed=1, grid=())
    measure(SimulatedModel(photographs), photographs, tmp_path, few)
    more = SimulatedModel(photographs)
    measure(more, photographs, tmp_path, replace(few, compared=2))
    rows = [row for row in document(tmp_path)["rows"] if row["what"] == "video" and row["index"] == 1]

    assert {index for _, index in more.rendered} == {1}  # the default's too: its frames were not kept
    assert all(row["ref_psnr"] for row in rows if row["setting"] != REFERENCE.name)


def test_rows_that_were_written_before_looks_were_measured_get_them(photographs: Photographs, tmp_path: Path) -> None:
    few = replace(OPTIONS, cases=2, compared=1, confirmed=1, grid=())
    measure(SimulatedModel(photographs), photographs, tmp_path, few)
    whole = document(tmp_path)
    old = [{name: row[name] for name in row if not name.endswith(("_gmsd", "_sharpness"))} for row in whole["rows"]]
    assert old != whole["rows"]
    (tmp_path / "quality.json").write_text(json.dumps({**whole, "rows": old}))

    later = SimulatedModel(photographs)
    assert measure(later, photographs, tmp_path, few)

    assert later.rendered == [(DEFAULT.name, 1)]  # of the other one the frames were kept
    found = {
        row["index"]: row for row in document(tmp_path)["rows"] if "index" in row and row.get("setting") == DEFAULT.name
    }
    before = {row["index"]: row for row in whole["rows"] if "index" in row and row.get("setting") == DEFAULT.name}
    for index in (0, 1):
        assert found[index]["looks_gmsd"] == before[index]["looks_gmsd"]
    assert "### Looks" in (tmp_path / "report.md").read_text()


def test_the_command_measures_a_model_with_the_engine(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--model", "builtin:tiny", "--device", "cpu", "--photographs", str(folder), "--buckets", "32x32x5",
        "--cases", "1", "--guidance", "1", "--no-grid", "--seconds", "1000", "--out", str(tmp_path),
    ]  # fmt: skip

    assert command.main(words) == 0
    assert "builtin:tiny, cpu" in capsys.readouterr().out
    rows = {(row["setting"], row["index"]): row for row in document(tmp_path)["rows"] if row["what"] == "video"}
    assert rows[REFERENCE.name, 0]["predictions"] == 200
    assert rows[DEFAULT.name, 0]["predictions"] == 35
    assert rows["euler 75", 0]["ref_psnr"] > rows["euler 25", 0]["ref_psnr"] > 20  # type: ignore[operator]
    assert "builtin-tiny" in command.Places.of("builtin:tiny", None).results.parent.name


def test_a_demo_without_weights_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoint, "DEMO_FOLDER", tmp_path)

    assert command.main([]) == 2
    said = capsys.readouterr().err
    assert "lacks the weights of builtin:demo" in said
    assert "dev/train_demo/README.md says how" in said
    assert "make quality QUALITY='--model " in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--buckets", "128x130x9"], "--buckets: bucket '128x130x9': width 130 must be a positive multiple of 16"),
        (["--buckets", "128x128x1"], "--buckets: 128x128x1 has too few frames to move in; 5 at least"),
        (["--guidance", "0.5"], "--guidance 0.5 must be from 1 to 20"),
        (["--grid-cases", "0"], "--grid-cases 0 must be at least 1"),
        (["--model", "builtin:tiny", "--photographs", "nowhere"], "there are no photographs in nowhere"),
        (["--model", "nobody"], "'nobody' is neither a folder nor a Hugging Face id"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(words) == 2
    assert said in capsys.readouterr().err
