"""`easyanim-server tune` on builtin:tiny, and a server that uses what it wrote."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from easyanim.v1 import video_pb2 as pb
from easyanim_server.__main__ import app
from easyanim_server.config import tuned as tuning
from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.media.decoder import read_frames
from easyanim_server.workers.process import DEFAULT_ENGINE
from tests.conftest import Stub
from tests.e2e.processes import BIN, ROOT
from tests.servers import RunningServer, settings

pytestmark = pytest.mark.long

OPTIONS = (
    "--model", "builtin:tiny", "--device", "cpu", "--buckets", "32x48x5,48x32x5", "--steps", "2",
    "--placements", "model_cpu_offload", "--image", str(ROOT / "examples" / "coffee.jpg"),
)  # fmt: skip


def tune(out: Path, *more: str) -> str:
    ran = CliRunner().invoke(app, ["tune", *OPTIONS, "--out", str(out), *more])
    assert ran.exception is None, ran.output
    return ran.output


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tuned")
    tune(out)
    return out


def rows(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return [line for line in lines if line["what"] != "header"]


def test_the_defaults_are_measured_and_nothing_slower_is_chosen(tuned: Path) -> None:
    header = json.loads((tuned / "tuned.json").read_text())["header"]
    seconds = header["seconds"]

    assert {"auto, auto, bf16", "model_cpu_offload, eager, bf16"} <= {*seconds}
    assert seconds[header["chosen"]] <= seconds["auto, auto, bf16"]
    assert {row["bucket"] for row in rows(tuned)} == {"32x48x5"}, "lying and standing are measured once"


def test_whole_generations_leave_their_videos(tuned: Path) -> None:
    whole = [row for row in rows(tuned) if row["what"] == "generation"]

    assert {row["steps"] for row in whole} == {2, 35, 50}, "those asked for, the usual ones, and those of before"
    for row in whole:
        assert read_frames(tuned / row["video"]).shape == (5, 32, 48, 3)
        assert row["seconds"] == pytest.approx(sum(row["phases"].values()), rel=0.01)


def test_the_report_has_the_tables_and_needs_no_other_file(tuned: Path) -> None:
    page = (tuned / "report.html").read_text()

    assert re.findall(r"<h2>([A-Z]\w+)", page) == ["Before", "Memory", "Steps", "Sizes", "All", "What"]
    assert page.count("data:image/jpeg;base64,") >= 4
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert (tuned / "tables.md").read_text().count("\n## ") == 4


def test_a_second_run_measures_nothing_again(tuned: Path) -> None:
    before = rows(tuned)

    assert "0 measured now" in tune(tuned)

    assert rows(tuned) == before


def test_a_spent_budget_leaves_candidates_out_and_the_next_run_goes_on(tuned: Path, tmp_path: Path) -> None:
    kept = [json.dumps(row) for row in [*_headers(tuned), *rows(tuned)] if row.get("candidate", "auto")[:4] == "auto"]
    (tmp_path / "results.jsonl").write_text("\n".join(kept) + '\n{"torn')

    output = tune(tmp_path, "--budget", "1s")

    assert "0 measured now" in output
    assert "model_cpu_offload, eager, bf16: 32x48x5: the budget is spent" in output
    assert json.loads((tmp_path / "tuned.json").read_text())["header"]["chosen"] == "auto, auto, bf16"
    assert "Not measured" in (tmp_path / "report.html").read_text()


def test_a_choice_that_no_time_was_left_to_check_does_not_replace_the_defaults(tuned: Path, tmp_path: Path) -> None:
    probes = [row for row in rows(tuned) if row["what"] == "probe"]
    usual = min(row["seconds"] for row in probes)
    for row in probes:  # as if it were the fastest
        if row["placement"] == "model_cpu_offload":
            row["seconds"] = 0.5 * usual
    (tmp_path / "results.jsonl").write_text("\n".join(map(json.dumps, [*_headers(tuned), *probes])))

    output = tune(tmp_path, "--budget", "1s")

    written = json.loads((tmp_path / "tuned.json").read_text())
    assert "0 measured now" in output
    assert written["header"]["chosen"] == "auto, auto, bf16"
    assert "no time was left to check that: run the same command again" in written["header"]["reason"]
    assert "placement" not in written["settings"]


def test_a_measurement_stands_once_among_those_that_were_left_out(tuned: Path, tmp_path: Path) -> None:
    kept = [row for row in rows(tuned) if row["candidate"].startswith("auto") and row["what"] == "probe"]
    (tmp_path / "results.jsonl").write_text("\n".join(map(json.dumps, [*_headers(tuned), *kept])))

    tune(tmp_path, "--budget", "1s")

    listed = re.findall(r"<li>(.*?)</li>", (tmp_path / "report.html").read_text())
    before = [text for text in listed if text.startswith("sequential_cpu_offload")]
    tasks = "32x48x5, 50 steps of 32x48x5 as a whole"
    assert before == [f"sequential_cpu_offload, eager, bf16: {tasks}: the budget is spent"]


def test_a_server_takes_the_tuned_settings_and_says_so(tuned: Path, tmp_path: Path, connect: object) -> None:
    document = json.loads((tuned / "tuned.json").read_text())
    document["settings"]["placement"] = "group_offload"  # whatever was the fastest here, which is noise on a CPU
    file = tmp_path / "tuned.json"
    file.write_text(json.dumps(document))

    values = Settings.load({"tuned": str(file), "listen": "127.0.0.1:0"})
    with RunningServer(values, DEFAULT_ENGINE) as server:
        stub: Stub = connect(server.address)  # type: ignore[operator]
        info = stub.GetServerInfo(pb.GetServerInfoRequest())

    assert info.model.name == "builtin:tiny"
    assert info.placement == "group_offload"
    assert "tuned on cpu, 20" in info.placement_reason
    assert [bucket.name for bucket in info.buckets] == ["32x48", "48x32"]


def test_a_file_of_another_card_is_refused_at_start(tuned: Path, tmp_path: Path) -> None:
    document = json.loads((tuned / "tuned.json").read_text())
    document["header"]["device"] = "NVIDIA H200"
    (tmp_path / "tuned.json").write_text(json.dumps(document))
    command: list[str | Path] = [BIN / "easyanim-server", "serve", "--listen", "127.0.0.1:0"]
    command += ["--tuned", tmp_path / "tuned.json"]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)

    assert ended.returncode == 2
    assert "was measured on 'NVIDIA H200', and this is 'cpu'" in ended.stderr


def test_flags_stand_above_a_tuning_file_and_another_model_is_refused(tuned: Path) -> None:
    file = str(tuned / "tuned.json")

    assert settings(tuned=file, model="builtin:tiny", buckets="64x64x5").placement in ("auto", "model_cpu_offload")
    assert settings(tuned=file, model="builtin:tiny", placement="full").placement == "full"
    with pytest.raises(ConfigurationError, match="measured with model 'builtin:tiny', not 'synthetic:7b'"):
        settings(tuned=file, model="synthetic:7b")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is no JSON"),
        ("{}", "is not a file that"),
        ('{"kind": "easyanim tuning 1", "header": {}, "settings": {}}', "needs settings, and a header with model"),
        ('{"kind": "easyanim tuning 1", "header": {"model": "m", "device": "d", "date": ""}, "settings": '
         '{"listen": "x"}}', "sets listen; allowed are model, buckets, placement, backend, precision"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "tuned.json").write_text(text)

    with pytest.raises(ConfigurationError, match=re.escape(sentence)):
        tuning.read(tmp_path / "tuned.json")


def _headers(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return [line for line in lines if line["what"] == "header"]
