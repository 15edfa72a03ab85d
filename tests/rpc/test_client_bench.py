"""`easyanim-client bench`: what it measures, against servers whose behaviour is known."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from google.rpc import status_pb2
from typer.testing import CliRunner, Result

from easyanim_client.bench import percentile
from easyanim_client.commands import app
from tests.engines import UNIT_SECONDS
from tests.rpc.scripted import (
    ACCEPTED,
    BROKEN,
    INVALID,
    QUEUE_FULL,
    RESTARTED,
    UNTIL_CANCELLED,
    ScriptedVideoService,
    success,
)
from tests.servers import RunningServer

pytest_plugins = ("tests.rpc.callers",)

DATA = os.urandom(4_321)
SLOW_UNIT_SECONDS = 10 * UNIT_SECONDS


def bench(address: str, *words: str) -> Result:
    return CliRunner().invoke(app, ["bench", "--address", address, *words])


def measured(address: str, *words: str) -> dict[str, Any]:
    result = bench(address, "--json", *words)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()  # the simulated server's log is among them
    report: dict[str, Any] = json.loads(next(line for line in lines if line.startswith("{")))
    return report


def test_every_request_is_counted_and_measured(scripted: ScriptedVideoService) -> None:
    scripted.script = success(DATA)

    report = measured(scripted.address, "--requests", "5", "--concurrency", "2", "--bucket", "64x96", "--steps", "3")

    assert report["outcomes"] == {"completed": 5}
    assert report["goodput_per_minute"] == pytest.approx(300 / report["wall_seconds"])
    for name in ("first_event_seconds", "largest_gap_seconds", "queue_seconds", "total_seconds"):
        spread = report["metrics"][name]
        assert spread["count"] == 5
        assert 0 < spread["p50"] <= spread["p90"] <= spread["p99"] <= spread["max"]
    assert [sample["size"] for sample in report["samples"]] == [len(DATA)] * 5
    assert {(request.bucket, request.step_count) for request in scripted.requests} == {("64x96", 3)}


def test_the_table_names_what_was_measured(scripted: ScriptedVideoService) -> None:
    scripted.script = success(DATA)

    result = bench(scripted.address, "--requests", "2")

    assert result.exit_code == 0
    for label in ("time to first event", "largest gap", "queue wait", "whole call", "chunk throughput", "goodput"):
        assert label in result.stdout
    assert "2 completed" in result.stdout


def test_a_full_queue_is_an_outcome_and_no_error(scripted: ScriptedVideoService) -> None:
    scripted.script = [QUEUE_FULL]

    report = measured(scripted.address, "--requests", "3")

    assert report["outcomes"] == {"queue_full": 3}
    assert report["goodput_per_minute"] == 0
    assert "queue_seconds" not in report["metrics"]


@pytest.mark.parametrize(
    ("failure", "outcome", "code"), [(BROKEN, "server_failed", 6), (INVALID, "invalid_request", 2)]
)
def test_any_other_failure_is_shown_and_ends_with_its_code(
    scripted: ScriptedVideoService, failure: status_pb2.Status, outcome: str, code: int
) -> None:
    scripted.script = [ACCEPTED, failure]

    result = bench(scripted.address, "--requests", "2")

    assert result.exit_code == code
    assert f"2 {outcome}" in result.stdout
    assert f"unexpected: {outcome}: {failure.message}" in result.stdout.replace("\n", " ")


def test_what_misses_the_deadline_is_not_goodput(scripted: ScriptedVideoService) -> None:
    scripted.script = [ACCEPTED, UNTIL_CANCELLED]

    report = measured(scripted.address, "--requests", "2", "--concurrency", "2", "--deadline", "0.2")

    assert report["outcomes"] == {"deadline_exceeded": 2}
    assert report["goodput_per_minute"] == 0
    assert report["metrics"]["total_seconds"]["p50"] >= 0.2


def test_silence_and_waiting_are_measured_where_they_are(simulated: RunningServer) -> None:
    report = measured(
        *(simulated.address, "--requests", "2", "--concurrency", "2", "--prompt", "slow"),
        *("--bucket", "64x64", "--steps", "1"),
    )

    first, second = sorted(report["samples"], key=lambda sample: sample["queue_seconds"])
    assert first["largest_gap_seconds"] >= SLOW_UNIT_SECONDS * 0.9
    # The second one waits for the first one's five units, from when it has read that it was accepted.
    assert second["queue_seconds"] >= 2 * SLOW_UNIT_SECONDS
    assert first["queue_seconds"] < second["queue_seconds"]
    assert report["metrics"]["first_chunk_seconds"]["count"] == 2


def test_a_restart_is_counted_and_chunks_are_those_of_the_last_run(scripted: ScriptedVideoService) -> None:
    scripted.script = [*success(bytes(9000))[:-1], RESTARTED, *success(bytes(300))[1:]]

    report = measured(scripted.address, "--requests", "1")

    (sample,) = report["samples"]
    assert (sample["outcome"], sample["restarts"], sample["size"]) == ("completed", 1, 300)
    assert sample["chunk_bytes_per_second"] is None, "the one chunk that counts has no second one"
    assert "restarts: 1, where" in bench(scripted.address, "--requests", "1").stdout


def test_cancel_latency_lasts_until_the_worker_is_free(simulated: RunningServer) -> None:
    report = measured(
        *(simulated.address, "--requests", "2", "--prompt", "slow", "--bucket", "64x64", "--steps", "100"),
        *("--cancel-after", "0.05"),
    )

    assert report["outcomes"] == {"cancelled": 2}
    assert simulated.app.jobs.workload.jobs == 0
    # The engine sleeps through its unit of work before it sees the cancel, and no other unit comes after it.
    assert 0 < report["metrics"]["cancel_seconds"]["max"] < 50 * SLOW_UNIT_SECONDS


def test_cancels_among_concurrent_requests_are_refused(scripted: ScriptedVideoService) -> None:
    result = bench(scripted.address, "--cancel-after", "1", "--concurrency", "2")

    assert result.exit_code == 2
    assert "one request at a time" in result.output


def test_an_unreachable_server_is_one_error() -> None:
    result = bench("127.0.0.1:1", "--requests", "3")

    assert result.exit_code == 3
    assert result.stderr.count("Error:") == 1


def test_percentiles_are_values_that_were_measured() -> None:
    assert [percentile([1.0, 2.0, 3.0, 10.0], share) for share in (50, 90, 99)] == [2.0, 10.0, 10.0]
    assert percentile([5.0], 50) == 5.0
