"""Runs the jobs of a batch, several at once, and keeps what became of each; goes on where it was cut off."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from easyanim_client.aio import AsyncClient
from easyanim_client.batch_jobs import BatchJob
from easyanim_client.errors import EasyAnimError, InvalidRequest, RetryLater, Violation, code_of
from easyanim_client.results import Event, Video
from easyanim_client.saving import Overwrite

RESULTS = "results.jsonl"
SEEDS = "seeds.json"
LONGEST_PAUSE = 30.0
"""Seconds between two tries where the server does not say how long to wait."""


class View(Protocol):
    """Shows a batch while it runs."""

    def started(self, job: BatchJob) -> None:
        """A job is sent, maybe not for the first time."""

    def event(self, job: BatchJob, event: Event) -> None:
        """The server said something about it."""

    def waits(self, job: BatchJob, seconds: float, error: RetryLater) -> None:
        """It was refused and will be sent again."""

    def ended(self, job: BatchJob, row: Mapping[str, Any]) -> None:
        """It is done or has failed, as `row` of the results says."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How a batch went."""

    done: int
    skipped: int
    """Done by an earlier run."""
    failed: int
    results: Path


class Results:
    """The results file: one JSON object a line, appended as jobs end; of several rows of a job the last one holds."""

    def __init__(self, folder: Path) -> None:
        """Read what is there. A last line that was cut off is passed over."""
        self.path = folder / RESULTS
        self._rows: dict[str, dict[str, Any]] = {}
        self._torn = False
        if self.path.exists():
            data = self.path.read_bytes()
            self._torn = bool(data) and not data.endswith(b"\n")
            for row in _parsed(data):
                self._rows[str(row.get("id"))] = row

    def is_done(self, job: BatchJob) -> bool:
        """Whether an earlier run has made this very video and it is still there."""
        row = self._rows.get(job.id)
        if row is None or row.get("status") != "done" or row.get("job_sha256") != job.sha256:
            return False
        file = self.path.parent / str(row.get("path", job.file_name))
        return file.is_file() and file.stat().st_size == row.get("bytes")

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; it is in the file when this returns."""
        line = json.dumps(row, ensure_ascii=False) + "\n"
        with self.path.open("ab") as file:
            file.write(("\n" if self._torn else "").encode() + line.encode())
            file.flush()
            os.fsync(file.fileno())
        self._torn = False


class Batch:
    """One run over jobs.

    Args:
        jobs: What to do; seeds are drawn where they have none, once for all runs into the same folder.
        folder: For the videos, the results and the seeds; made if absent.
        concurrency: Jobs that are sent to the server at once; two keep the GPU busy.
        retries: How often a job is sent again after it was lost while the server worked on it.
        patience: Seconds that one job waits for a server that is full, loading or gone.
        overwrite: What becomes of a file that has the name of a job's video and is not that video.

    Raises:
        OSError: the folder cannot be used.
    """

    def __init__(
        self,
        jobs: Sequence[BatchJob],
        folder: Path,
        *,
        concurrency: int = 2,
        retries: int = 2,
        patience: float = 600.0,
        overwrite: Overwrite = "number",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._concurrency, self._retries, self._patience = concurrency, retries, patience
        self._overwrite = overwrite
        self._results = Results(folder)
        seeded = _with_seeds(jobs, folder / SEEDS)
        self._todo = [job for job in seeded if not self._results.is_done(job)]
        self._skipped = len(seeded) - len(self._todo)
        self._done = self._failed = 0

    @property
    def todo(self) -> Sequence[BatchJob]:
        """Jobs that no earlier run has done."""
        return self._todo

    async def run(self, client: AsyncClient, view: View) -> Summary:
        """Run them; jobs that fail leave the others alone. Being cancelled cancels the jobs on the server.

        Args:
            client: Talks to the server.
            view: Told what happens.

        Raises:
            RetryLater: the server took no job for as long as `patience`.
            OSError: the results cannot be written.
        """
        queue = iter(self._todo)
        count = min(self._concurrency, len(self._todo))
        workers = [asyncio.create_task(self._work(client, view, queue)) for _ in range(count)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return Summary(self._done, self._skipped, self._failed, self._results.path)

    async def _work(self, client: AsyncClient, view: View, queue: Iterator[BatchJob]) -> None:
        for job in queue:
            row = await self._row(client, view, job)
            self._results.add(row)
            view.ended(job, row)
            if row["status"] == "done":
                self._done += 1
            else:
                self._failed += 1

    async def _row(self, client: AsyncClient, view: View, job: BatchJob) -> dict[str, Any]:
        """Run a job to its end; what is to be kept of it."""
        began = time.monotonic()
        row: dict[str, Any] = {"index": job.index, "id": job.id, "status": "failed", "job_sha256": job.sha256}
        try:
            video = await self._video(client, view, job)
        except _ServerIsAway as away:
            raise away.error from None
        except EasyAnimError as error:
            outcome: dict[str, Any] = {"error": _error(error)}
        else:
            outcome = {
                "status": "done",
                "path": job.file_name if video.path is None else video.path.name,
                "request_id": video.request_id,
                "bytes": video.size,
                "sha256": video.sha256,
                "receipt": dataclasses.asdict(video.receipt),
            }
        return {**row, "seconds": round(time.monotonic() - began, 3), "seed": job.arguments["seed"], **outcome}

    async def _video(self, client: AsyncClient, view: View, job: BatchJob) -> Video:
        lost, refusals, refused_since = 0, 0, time.monotonic()
        while True:
            taken = False
            try:
                view.started(job)
                file = self._folder / job.file_name
                generation = client.generate(**job.arguments, save_to=file, overwrite=self._overwrite)
                async for event in generation:
                    taken = True
                    view.event(job, event)
                return await generation.result()
            except RetryLater as error:
                if taken:
                    lost, refusals, refused_since = lost + 1, 0, time.monotonic()
                    if lost > self._retries:
                        raise
                elif time.monotonic() - refused_since > self._patience:
                    raise _ServerIsAway(error) from error
                pause = error.retry_after if error.retry_after is not None else min(2.0**refusals, LONGEST_PAUSE)
                refusals += 1
                view.waits(job, pause, error)
                await asyncio.sleep(pause)


class _ServerIsAway(Exception):
    """Nobody takes this job, nor will anybody take the others."""

    def __init__(self, error: RetryLater) -> None:
        super().__init__(str(error))
        self.error = error


def _with_seeds(jobs: Sequence[BatchJob], file: Path) -> list[BatchJob]:
    """Give every job without a seed the one that was drawn for it, now or by an earlier run."""
    drawn: dict[str, int] = {}
    if file.exists():
        try:
            drawn = {str(name): int(seed) for name, seed in json.loads(file.read_text(encoding="utf-8-sig")).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidRequest(f"{file} is damaged ({error}); remove it to draw new seeds") from error
    missing = [job.id for job in jobs if job.arguments.get("seed") is None and job.id not in drawn]
    if missing:
        drawn |= {name: secrets.randbelow(2**53) for name in missing}
        partial = file.with_name(f".{file.name}.part")
        partial.write_text(json.dumps(drawn, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, file)
    return [job.with_seed(drawn.get(job.id, 0)) for job in jobs]


def _parsed(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:  # torn, or an empty end
            continue
        if isinstance(row, dict):
            yield row


def _error(error: EasyAnimError) -> dict[str, Any]:
    violations: Sequence[Violation] = getattr(error, "violations", ())
    fields = {"fields": {item.field: item.description for item in violations}} if violations else {}
    named = {"request_id": error.request_id} if error.request_id else {}
    return {"code": code_of(error), "reason": error.reason, "message": str(error), **fields, **named}
