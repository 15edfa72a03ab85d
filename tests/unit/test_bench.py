"""The benchmark on the tiny model: rows, failures, the report."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer.main
from diffusers import EasyAnimateTransformer3DModel
from torch._dynamo.utils import counters
from typer.testing import CliRunner

from dev.bench import demo_model, report
from dev.train_demo.networks import Sizes
from easyanim_server.__main__ import app
from easyanim_server.benchmark import benchmark, record, speedtest
from easyanim_server.benchmark import stopwatch as measure
from easyanim_server.benchmark.benchmark import Plan
from easyanim_server.benchmark.speedtest import SpeedTest, Variant
from easyanim_server.benchmark.stopwatch import Stopwatch
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.job import Bucket
from easyanim_server.engine.attention import select as attention
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.weights import checkpoint
from tests.models import make_job, run

CPU = torch.device("cpu")
SMALL, LARGE = "32x48x5", "48x32x9"
COMMAND = ["bench", "--model", "builtin:tiny", "--device", "cpu", "--buckets", f"{LARGE},{SMALL}", "--steps", "3,2",
           "--precisions", "bf16,fp8"]  # fmt: skip

Row = dict[str, Any]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], str]]:
    """The file and the output of one run, in which the stock network cannot be compiled."""

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a compiler that breaks\nwith a second line")

    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EasyAnimateTransformer3DModel, "compile_repeated_blocks", broken)
        ran = CliRunner().invoke(app, [*COMMAND, "--commit", "0123456789ab", "--out", str(folder)])
    assert ran.exception is None, ran.output
    assert [file.name for file in folder.iterdir()] == ["cpu-speed.json"]
    yield json.loads((folder / "cpu-speed.json").read_text()), ran.output
    torch._dynamo.reset()
    counters.clear()  # other tests count compilations


@pytest.fixture(scope="module")
def rows(measured: tuple[dict[str, Any], str]) -> list[Row]:
    return list(measured[0]["rows"])


def step(rows: list[Row], backend: str, precision: str = "bf16", bucket: str = SMALL) -> Row:
    (found,) = [
        row for row in rows
        if (row["what"], row["backend"], row["precision"], f"{row['bucket']}x{row['frames']}")
        == ("step", backend, precision, bucket)
    ]  # fmt: skip
    return found


def test_every_path_and_bucket_has_a_row_in_order(rows: list[Row]) -> None:
    paths = ["diffusers bf16", "diffusers-compiled bf16", "eager bf16", "inductor bf16", "eager fp8", "inductor fp8"]
    steps = [row for row in rows if row["what"] == "step"]

    assert [f"{row['backend']} {row['precision']}" for row in steps] == [path for path in paths for _ in range(2)]
    assert [f"{row['bucket']}x{row['frames']}" for row in steps] == [SMALL, LARGE] * len(paths)
    assert all(set(benchmark.STEP_COLUMNS) == set(row) - {"error"} for row in steps)


@pytest.mark.parametrize("bucket", [SMALL, LARGE])
@pytest.mark.parametrize("backend", ["diffusers", "eager", "inductor"])
def test_a_measured_step_says_how_fast_it_is(rows: list[Row], backend: str, bucket: str) -> None:
    row = step(rows, backend, bucket=bucket)

    assert 0 < row["ms_min"] <= row["ms_per_step"] <= row["ms_max"]
    assert row["ratio"] == pytest.approx(row["stock_eager_ms"] / row["ms_per_step"], rel=1e-3)
    assert row["stock_eager_ms"] == step(rows, "diffusers", bucket=bucket)["ms_per_step"]
    assert row["tflops"] > 0
    assert row["matmul_share"] > 0
    offered = ["torch"] if backend == "diffusers" else attention.available(CPU, torch.bfloat16)
    assert row["attention"] in offered, "which is the fastest of these is this machine's to say"
    assert row["cfg"] == ("batch of 2" if backend == "diffusers" else "2 x batch of 1")
    assert row["peak_gib"] is None, "a CPU has no device memory"


def test_velocities_are_compared_with_those_of_the_same_network(rows: list[Row]) -> None:
    assert step(rows, "diffusers")["relative_l2"] == 0
    assert step(rows, "eager")["relative_l2"] == 0
    assert 0 <= step(rows, "inductor")["relative_l2"] < 0.05


def test_compile_times_are_cold_everywhere_and_warm_for_the_smallest_bucket(rows: list[Row]) -> None:
    assert step(rows, "eager")["compile_cold_s"] is None
    small, large = (step(rows, "inductor", bucket=bucket) for bucket in (SMALL, LARGE))
    assert small["compile_cold_s"] > small["compile_warm_s"] > 0
    assert large["compile_cold_s"] > 0.1
    assert large["compile_warm_s"] is None


def test_what_fails_says_why_and_the_others_go_on(measured: tuple[dict[str, Any], str], rows: list[Row]) -> None:
    broken = step(rows, "diffusers-compiled")
    assert broken["error"] == "RuntimeError: a compiler that breaks"
    assert broken["ms_per_step"] is None
    assert "fp8 tensor cores, not cpu; use bf16" in step(rows, "inductor", "fp8")["error"]
    assert f"{SMALL} diffusers-compiled bf16: RuntimeError: a compiler that breaks" in measured[1]


def test_a_cpu_is_measured_without_fp8_unless_it_is_asked_for() -> None:
    def precisions(asked: str | None) -> tuple[str, ...]:
        return Plan.parse(None, "cpu", None, "eager", asked, "3", 3, full=False).precisions

    assert precisions(None) == ("bf16",)
    assert precisions("fp8,bf16") == ("bf16", "fp8")


def test_published_results_are_written_on_purpose_alone() -> None:
    parameters = typer.main.get_group(app).commands["bench"].params
    assert [option.default for option in parameters if option.name == "out"] == [Path("bench-results")]
    root = Path(__file__).parents[2]
    assert "bench --out bench/results $(BENCH)" in (root / "Makefile").read_text()
    assert "/bench-results/" in (root / ".gitignore").read_text().splitlines()


def test_whole_generations_are_run_in_the_smallest_bucket_and_computed_in_others(rows: list[Row]) -> None:
    generations = [row for row in rows if row["what"] == "generation"]

    assert [(row["bucket"], row["steps"], row["denoise"]) for row in generations] == [
        ("32x48", 2, "run"), ("32x48", 3, "run"), ("48x32", 2, "computed"), ("48x32", 3, "computed"),
    ]  # fmt: skip
    for row in generations:
        assert set(row) == set(benchmark.GENERATION_COLUMNS)
        assert (row["backend"], row["precision"]) == ("inductor", "bf16")
        assert list(row["phases"]) == ["TEXT_ENCODE", "IMAGE_ENCODE", "DENOISE", "DECODE"]
        assert row["seconds"] == pytest.approx(sum(row["phases"].values()), rel=1e-2)
    assert generations[0]["phases"]["DENOISE"] < generations[1]["phases"]["DENOISE"]


def test_the_header_names_machine_versions_commit_and_command(measured: tuple[dict[str, Any], str]) -> None:
    header = measured[0]["header"]

    assert header["commit"] == "0123456789ab"
    assert header["torch"] == torch.__version__
    assert header["matmul_tflops"] > 0
    assert header["versions"]["diffusers"]
    assert header["command"] == (
        "easyanim-server bench --model builtin:tiny --device cpu --buckets 32x48x5,48x32x9 "
        "--backends eager,inductor --precisions bf16,fp8 --steps 2,3 --repeats 3"
    )
    assert {"gpu", "driver", "cuda", "cudnn", "date", "cpu"} <= set(header)


def test_the_output_ends_in_tables(measured: tuple[dict[str, Any], str]) -> None:
    table = measured[1].partition("wrote ")[2]
    for words in ("A guided step", "inductor bf16", "Whole generations", "failed: 48x32x9 eager fp8 (step)"):
        assert words in table


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"buckets": "100x100"}, "multiple of 16"),
        ({"backends": "eager,tpu"}, "backend 'tpu' must be one or more of eager, inductor"),
        ({"precisions": ""}, "must be one or more of bf16, fp8"),
        ({"steps": "2,x"}, "steps '2,x' must be numbers, separated by commas"),
        ({"steps": "0"}, "at least 1"),
        ({"repeats": 0}, "at least 1"),
        ({"device": "cuda:99"}, "cuda:99"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(changes: dict[str, Any], words: str) -> None:
    usual = {"model": None, "device": "cpu", "buckets": None, "backends": "eager", "precisions": "bf16", "steps": "2"}
    with pytest.raises(ConfigurationError, match=words):
        Plan.parse(**{**usual, "repeats": 1, "full": False, **changes})


def test_bf16_cannot_be_measured_after_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speedtest, "require_fp8", lambda device: None)
    monkeypatch.setattr(speedtest, "to_fp8", lambda denoiser: None)
    test = SpeedTest("builtin:tiny", CPU, repeats=1)
    bucket = Bucket.parse(SMALL)
    test.step(Variant("eager", "fp8"), bucket)

    with pytest.raises(ValueError, match="bf16 must be measured before fp8"):
        test.step(Variant("eager"), bucket)


def test_long_work_is_repeated_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(Stopwatch(CPU).repeat(lambda: None, 3).milliseconds) == 3

    monkeypatch.setattr(measure, "REPEAT_SECONDS", 0.0)
    assert len(Stopwatch(CPU).repeat(lambda: None, 3).milliseconds) == 1


@pytest.mark.parametrize(
    ("gpu", "name"),
    [("NVIDIA H200", "h200"), ("NVIDIA GeForce RTX 4090", "rtx-4090"), ("NVIDIA H100 80GB HBM3", "h100-80gb-hbm3")],
)
def test_results_are_named_by_card(gpu: str, name: str) -> None:
    assert record.slug(gpu) == name


def test_the_benchmark_needs_neither_video_nor_grpc() -> None:
    script = "import sys; import easyanim_server.benchmark.benchmark, easyanim_server.benchmark.tables; " \
             "print(*{'av', 'grpc'} & set(sys.modules))"  # fmt: skip
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert ran.stdout.strip() == ""


@pytest.fixture
def results(tmp_path: Path, measured: tuple[dict[str, Any], str]) -> list[report.Result]:
    """What was measured here, as if it had been on a card and with the model of published shape."""
    document, _ = measured
    header = document["header"] | {"gpu": "NVIDIA H200", "driver": "580.159.03", "cudnn": 91900}
    rows = [row | {"model": "synthetic:7b"} for row in document["rows"]]
    (tmp_path / "h200-speed.json").write_text(json.dumps({"header": header, "rows": rows}))
    (tmp_path / "cpu-speed.json").write_text(json.dumps(document))
    return report.load(tmp_path)


def test_the_report_has_a_table_of_steps_one_of_generations_and_the_failures(results: list[report.Result]) -> None:
    assert [result.title for result in results] == ["NVIDIA H200, synthetic:7b"], "the tiny model is left out"
    tables = report.markdown(results)
    lines = tables.splitlines()

    assert "driver 580.159.03" in lines[0]
    assert "commit 0123456789ab" in lines[0]
    assert sum(line.startswith(f"| {SMALL} | ") for line in lines) == 3 + 1
    assert sum("**" in line for line in lines) == 1 + 2, "the heading, and the fastest path of each bucket"
    assert any(line.startswith(f"| {LARGE} | inductor bf16 | ≈ ") for line in lines)
    assert f"Failed: {SMALL} diffusers-compiled bf16: RuntimeError: a compiler that breaks" in lines
    columns = [line.count("|") for line in lines if line.startswith("|")]
    assert set(columns[:8]) == {11}


def test_the_tables_go_between_the_markers_and_nowhere_else(results: list[report.Result]) -> None:
    text = "before\n<!-- bench:speed -->\nold \\1\n<!-- /bench -->\nafter\n"
    tables = report.markdown(results)

    filled = report.fill(text, tables)

    assert filled == f"before\n<!-- bench:speed -->\n{tables}<!-- /bench -->\nafter\n"
    assert report.fill(filled, tables) == filled
    assert report.fill(filled, report.markdown([])) == "before\n<!-- bench:speed -->\n<!-- /bench -->\nafter\n"
    with pytest.raises(ValueError, match="0 pairs of markers"):
        report.fill("no markers", tables)


def test_plot_and_page_show_every_path(results: list[report.Result], tmp_path: Path) -> None:
    report.plot(results, tmp_path / "speed.png")
    page = report.page(results)

    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert page.count("<tr>") == 6
    assert "color-scheme: light dark" in page
    assert "http" not in page, "self-contained"


def test_readmes_table_sets_the_paths_beside_stock_diffusers(results: list[report.Result]) -> None:
    lines = report.summary(results).splitlines()

    assert sum(line.startswith(f"| {SMALL} | ") for line in lines) == 1
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_the_documents_hold_what_the_results_say() -> None:
    for document, parts in report.documents().items():
        text = document.read_text()
        for name, tables in parts.items():
            assert report.fill(text, tables, name) == text, f"{document.name}: run `make bench-report`"


def test_a_model_of_the_demos_kind_with_random_weights_generates(tmp_path: Path) -> None:
    demo_model.write(tmp_path, Sizes.smoke())

    engine = Engine(
        EasyAnimatePipeline(checkpoint.load(str(tmp_path), device=torch.device("cpu"), dtype=torch.float32))
    )
    frames = np.concatenate(list(engine.decode(run(engine, make_job(bucket="32x48x9", steps=2)))))

    assert frames.shape == (9, 32, 48, 3)
    assert frames.std() > 0
