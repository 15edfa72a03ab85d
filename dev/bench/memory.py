"""Every placement under the memory of smaller cards: peaks, seconds, and whether the video is that of `full`.

    PYTHONPATH=. python dev/bench/memory.py                  # 24, 16 and 12 GiB on the card that is there
    PYTHONPATH=. python dev/bench/memory.py --seconds 300    # as many rows as that allows; the next run goes on
    PYTHONPATH=. python dev/bench/memory.py --placements model_cpu_offload_and_qfloat8    # those rows alone

Each row is a generation with a start picture and guidance, from two prompts to frames on the host, in an engine whose
buckets are warm. Of its 35 steps a few are taken and scaled; `steps_measured` says how many. Frames are decoded after
the second step and compared with those of `full`, by their SHA-256, so that rows which are there already are kept.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dev.bench.memory_cases import Case, Row, key_of, on_a_gpu, on_the_cpu
from easyanim_server.benchmark import record
from easyanim_server.benchmark import stopwatch as measure
from easyanim_server.domain.events import Phase
from easyanim_server.domain.job import DEFAULT_GUIDANCE, DEFAULT_STEPS, Bucket, Job, Picture
from easyanim_server.domain.placement import WeightPlacement
from easyanim_server.engine.compile.numeric_check import relative_l2
from easyanim_server.engine.compile.precision import resolve_precision
from easyanim_server.engine.devices import GIB, limit_memory, locked_limit, resolve_device, resolve_dtype
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.weights import checkpoint

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results"

COMPARED_STEPS = 2
"""Steps after which placements are compared, whatever the number that is measured."""


class MemoryBenchmark:
    """Measures cases on one model, which is made once and moved from placement to placement.

    Args:
        model: As `checkpoint.load` takes it.
        device: Where to measure.
        cases: In order; those with 8-bit weights last.
        file: Of the results; what is there is kept.
        seconds: After which no further row is begun.
        backend: How the transformer's blocks run.
        commit: What is measured, where git does not know.
    """

    def __init__(
        self,
        model: str,
        device: torch.device,
        cases: Sequence[Case],
        file: Path,
        seconds: float,
        backend: str,
        commit: str = "",
    ) -> None:
        self._began = time.monotonic()
        self._model, self._device, self._file, self._backend = model, device, file, backend
        self._seconds = seconds
        self._cases = cases
        self._stopwatch = measure.Stopwatch(device)
        self.rows: list[Row] = []
        if file.exists():
            again = {case.key for case in cases}  # of what failed
            old = [row for row in json.loads(file.read_text())["rows"] if row["model"] == model]
            self.rows = [row for row in old if "error" not in row or key_of(row) not in again]
        self._header = measure.machine(device) | ({"commit": commit} if commit else {})
        self._engine: Engine | None = None
        self._in_8_bits = False
        self._tiled = False
        self._latents: dict[Bucket, Tensor] = {}

    def run(self) -> None:
        """Measure what is missing, as long as there is time."""
        missing = [case for case in self._cases if case.key not in {key_of(row) for row in self.rows}]
        for case in missing:
            if time.monotonic() - self._began > self._seconds:
                self._say(f"{self._seconds:.0f} s are over; run it again for the other rows")
                return
            row = self._row(case)
            self.rows.append(row)
            self._write()
            self._say(_sentence(row))

    def _row(self, case: Case) -> Row:
        row: Row = {
            "model": self._model,
            "cap_gib": case.cap,
            "bucket": case.bucket.name,
            "frames": case.bucket.frames,
            "placement": case.placement,
            "precision": None,
            "peak_gib": None,
            "reserved_gib": None,
            "host_peak_gib": None,
            "locked_gib": None,
            "seconds": None,
            "ratio_to_full": None,
            "equal_to_full": None,
            "relative_l2": None,
            "vae_tiled": case.tiled,
            "backend": self._backend,
            "steps": DEFAULT_STEPS,
            "steps_measured": case.steps,
            "phases": None,
            "frames_sha256": None,
        }
        try:
            engine = self._prepared(case)
            row |= self._measure(engine, case)
        except Exception as error:  # a row that fails says why, and the next one goes on
            traceback.clear_frames(error.__traceback__)
            row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"
            self._limit(None)
            if self._engine is not None:
                self._engine.placement.leave()
            gc.collect()
        return row

    def _prepared(self, case: Case) -> Engine:
        """The engine in the case's placement, under its cap."""
        self._limit(None)
        in_8_bits = WeightPlacement(case.placement).in_8_bits
        if self._engine is None or in_8_bits != self._in_8_bits:
            self._engine = self._make(in_8_bits, case)
        engine = self._engine
        engine.placement.use(WeightPlacement(case.placement))
        engine.placement.need("transformer")  # moves what `full` has left on the device
        self._tiled = case.tiled
        if case.placement != "full":
            engine.placement.leave()
        self._limit(case.cap)
        return engine

    def _make(self, in_8_bits: bool, case: Case) -> Engine:
        self._engine = None
        gc.collect()
        began = time.monotonic()
        dtype = resolve_dtype("auto", self._device)
        placement = case.placement if in_8_bits else "full"
        modules = checkpoint.load(self._model, device=self._device, dtype=dtype, on_host=in_8_bits)
        self._say(f"{self._model} made in {time.monotonic() - began:.0f} s")
        engine = Engine(
            EasyAnimatePipeline(modules, tiled=lambda height, width: self._tiled),
            backend=self._backend,
            precision=resolve_precision("bf16", in_8_bits, self._device),
            attention="auto",
            placement=placement,
            locked_limit=locked_limit(None),
        )
        buckets = [item.bucket for item in self._cases if WeightPlacement(item.placement).in_8_bits == in_8_bits]
        ready = engine.prepare(list(dict.fromkeys(buckets)), self._say)
        for item in ready:
            if item.fallback:
                self._say(f"{item.bucket}: {item.fallback}")
        self._in_8_bits = in_8_bits
        self._say(f"ready after {time.monotonic() - began:.0f} s")
        return engine

    def _measure(self, engine: Engine, case: Case) -> Row:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        host = measure.HostPeak()
        engine.peak_bytes(reset=True)
        phases, digest, latents = self._generate(engine, case, case.steps)
        if case.placement == "full":
            self._latents[case.bucket] = latents
        reference = self._latents.get(case.bucket)
        cuda = self._device.type == "cuda"
        full = next(
            (row for row in self.rows if row["placement"] == "full" and row["bucket"] == case.bucket.name), None
        )
        seconds = sum(phases.values())
        return {
            "precision": engine.readiness(case.bucket).precision,
            "placement": engine.readiness(case.bucket).placement,  # leaner, had it run out of memory
            "peak_gib": engine.peak_bytes() / GIB if cuda else None,
            "reserved_gib": torch.cuda.max_memory_reserved(self._device) / GIB if cuda else None,
            "host_peak_gib": host.nbytes / GIB,
            "locked_gib": engine.placement.locked_bytes / GIB,
            "seconds": seconds,
            "ratio_to_full": seconds / full["seconds"] if full else 1.0 if case.placement == "full" else None,
            "equal_to_full": digest == full["frames_sha256"] if full else True if case.placement == "full" else None,
            "relative_l2": None if reference is None else relative_l2(latents, reference),
            "phases": phases,
            "frames_sha256": digest,
        }

    def _generate(self, engine: Engine, case: Case, steps: int) -> tuple[dict[str, float], str, Tensor]:
        """Seconds of each phase, denoising scaled to all steps; SHA-256 of the frames; latents, on the host."""
        bucket = case.bucket
        pixels = 3 * bucket.width * bucket.height
        start = Picture(bucket.width, bucket.height, (bytes(range(251)) * (pixels // 251 + 1))[:pixels])
        job = Job("bench", "a cat", "ugly", bucket, DEFAULT_STEPS, DEFAULT_GUIDANCE, seed=0, start=start)
        engine._prompts._remembered.clear()  # texts are read in every row
        marks: dict[str, float] = {}

        def observe(phase: Phase, completed: int, total: int) -> None:
            if completed == 0:
                marks[phase.value] = self._now()

        began = self._now()
        sampling = engine.begin(job, observe)
        encoded = self._now()
        first, compared = None, sampling.latents
        for number in range(steps):
            engine.step(sampling)
            first = first or self._now()
            compared = sampling.latents if number < COMPARED_STEPS else compared
        denoised = self._now()
        sampling.latents = compared
        digest = hashlib.sha256()
        for frames in engine.decode(sampling):
            digest.update(frames.tobytes())
        decoded = self._now()
        # The first step begins with the way of the weights, which is not to be scaled.
        step = (denoised - first) / (steps - 1) if steps > 1 and first else denoised - encoded
        once = max(0.0, (first or denoised) - encoded - step)
        images = marks.get(Phase.IMAGE_ENCODE.value, encoded)
        return (
            {
                Phase.TEXT_ENCODE.value: images - began,
                Phase.IMAGE_ENCODE.value: encoded - images,
                Phase.DENOISE.value: DEFAULT_STEPS * step + once,
                Phase.DECODE.value: decoded - denoised,
            },
            digest.hexdigest(),
            compared.cpu(),
        )

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _limit(self, cap: float | None) -> None:
        if self._device.type != "cuda":
            return
        torch.cuda.empty_cache()
        if cap is None:
            torch.cuda.set_per_process_memory_fraction(1.0)
        limit_memory(self._device, cap)
        torch.cuda.reset_peak_memory_stats(self._device)

    def _write(self) -> None:
        command = f"python dev/bench/memory.py --model {self._model} --backend {self._backend}"
        rows = [{name: record.rounded(value) for name, value in row.items()} for row in self.rows]
        record.write(self._file, rows, command=command, **self._header)

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._began:4.0f} s] {text}", flush=True)


def _sentence(row: Row) -> str:
    cap = "no cap" if row["cap_gib"] is None else f"{row['cap_gib']} GiB"
    what = f"{row['bucket']}x{row['frames']} {row['placement']} ({cap}): "
    if "error" in row:
        return f"{what}{row['error']}"
    peak = "" if row["peak_gib"] is None else f", peak {row['peak_gib']:.2f} GiB"
    ratio = "" if row["ratio_to_full"] is None else f", {row['ratio_to_full']:.3f} x full"
    return what + f"{row['seconds']:.2f} s{ratio}{peak}, equal {row['equal_to_full']}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: synthetic:7b, on the CPU builtin:tiny")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backend", default="inductor", choices=("eager", "inductor"))
    parser.add_argument("--seconds", type=float, default=540.0, help="no further row is begun after that")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--placements", default="", help="by name, with commas; default: all")
    parser.add_argument("--commit", default="")
    given = parser.parse_args(arguments)
    device = resolve_device(given.device)
    cuda = device.type == "cuda"
    model = given.model or ("synthetic:7b" if cuda else "builtin:tiny")
    name = measure.machine(device)["gpu"] or "cpu"
    if cuda and shutil.disk_usage("/tmp").free < GIB:
        print("less than 1 GiB free for compiled code in /tmp", file=sys.stderr)
    file = given.out / f"{record.slug(name)}-memory.json"
    wanted = [name for name in given.placements.split(",") if name]
    cases = [case for case in (on_a_gpu() if cuda else on_the_cpu()) if not wanted or case.placement in wanted]
    bench = MemoryBenchmark(model, device, cases, file, given.seconds, given.backend, given.commit)
    bench.run()
    print(f"wrote {file}")
    return int(any("error" in row for row in bench.rows))


if __name__ == "__main__":
    sys.exit(main())
