"""The command `easyanim-server bench`: stock diffusers and our paths side by side, in one run on one machine."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from easyanim_server import catalog
from easyanim_server.benchmark import record
from easyanim_server.benchmark import stopwatch as measure
from easyanim_server.benchmark.speedtest import STOCK, STOCK_COMPILED, Generation, SpeedTest, Step, Variant
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.events import Phase
from easyanim_server.domain.job import Bucket
from easyanim_server.domain.wording import counted
from easyanim_server.engine.compile.backends import BACKENDS
from easyanim_server.engine.devices import resolve_device

Row = dict[str, Any]
Result = TypeVar("Result")

PRECISIONS = ("bf16", "fp8")
"""In the order in which they can be measured."""
ON_ANY_DEVICE = PRECISIONS[:1]
"""Those that need no tensor cores for them."""

ON_A_GPU = ("synthetic:7b", "384x672,576x1008,768x1344")
ON_THE_CPU = ("builtin:tiny", "96x160x13,96x160x49")
"""Default model and buckets."""

STEP_COLUMNS = (
    "what", "model", "bucket", "frames", "backend", "precision", "attention", "cfg", "ms_per_step", "ms_min", "ms_max",
    "stock_eager_ms", "ratio", "tflops", "matmul_share", "peak_gib", "relative_l2", "compile_cold_s", "compile_warm_s",
)  # fmt: skip
GENERATION_COLUMNS = (
    "what", "model", "bucket", "frames", "backend", "precision", "attention", "cfg", "steps", "seconds", "phases",
    "denoise",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    model: str
    device: str
    buckets: tuple[Bucket, ...]
    """From the fewest tokens up."""
    backends: tuple[str, ...]
    """Of ours; whole generations are measured in the last one."""
    precisions: tuple[str, ...]
    steps: tuple[int, ...]
    """Of whole generations."""
    repeats: int
    """How often a step is measured at most."""
    full: bool
    """Whether whole generations take all their steps in every bucket, not only in the smallest."""
    pairs: bool = False
    """Whether to measure guidance in batches of two as well."""

    @classmethod
    def parse(
        cls,
        model: str | None,
        device: str,
        buckets: str | None,
        backends: str,
        precisions: str | None,
        steps: str,
        repeats: int,
        full: bool,
        pairs: bool = False,
    ) -> Plan:
        """Read lists separated by commas; None stands for what suits the device.

        Raises:
            ConfigurationError: a word is not known, a number is not one, or there is no such device.
        """
        on_a_gpu = resolve_device(device).type == "cuda"
        usual = ON_A_GPU if on_a_gpu else ON_THE_CPU
        try:
            shapes = {catalog.parse_bucket(text, model or usual[0]) for text in _words(buckets or usual[1])}
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        try:
            counts = {int(text) for text in _words(steps)}
        except ValueError:
            raise ConfigurationError(f"steps {steps!r} must be numbers, separated by commas") from None
        if not shapes or min(counts, default=1) < 1 or repeats < 1:
            raise ConfigurationError("bench needs a bucket, and steps and repeats of at least 1")
        geometry = catalog.expected(model or usual[0]).geometry
        return cls(
            model=model or usual[0],
            device=device,
            buckets=tuple(sorted(shapes, key=lambda bucket: (geometry.video_tokens(bucket), bucket))),
            backends=_chosen("backend", backends, BACKENDS),
            precisions=(PRECISIONS if on_a_gpu else ON_ANY_DEVICE)
            if precisions is None
            else _chosen("precision", precisions, PRECISIONS),
            steps=tuple(sorted(counts)),
            repeats=repeats,
            full=full,
            pairs=pairs,
        )

    @property
    def variants(self) -> list[Variant]:
        """In order: what others are compared with comes first, what gives weights up comes last."""
        compared = [Variant(STOCK), Variant(STOCK_COMPILED), Variant("eager")]
        asked = []
        for precision in self.precisions:
            asked += [Variant(self.backends[0], precision, pairs=True)] if self.pairs else []
            asked += [Variant(backend, precision) for backend in self.backends]
        return list(dict.fromkeys(compared + asked))

    @property
    def generating(self) -> list[Variant]:
        """Those that whole generations are measured in."""
        return [Variant(self.backends[-1], precision) for precision in self.precisions]

    @property
    def command(self) -> str:
        """What repeats the measurement."""
        lists: dict[str, tuple[object, ...]] = {
            "buckets": self.buckets, "backends": self.backends, "precisions": self.precisions, "steps": self.steps,
        }  # fmt: skip
        words = ["easyanim-server", "bench", "--model", self.model, "--device", self.device]
        for name, values in lists.items():
            words += [f"--{name}", ",".join(map(str, values))]
        words += ["--repeats", str(self.repeats), *(["--full"] if self.full else [])]
        words += ["--pairs"] if self.pairs else []
        return shlex.join(words)


class Benchmark:
    """Carries a plan out. A variant that fails leaves its error in its row, and the others go on.

    Args:
        plan: What to measure.
        out: Folder of the results.
        commit: What is measured, where there is no clone to ask.
        say: Takes a line about each row as it comes.
        what: The last part of the file's name.
    """

    def __init__(
        self, plan: Plan, out: Path, commit: str | None, say: Callable[[str], None], what: str = "speed"
    ) -> None:
        self._plan = plan
        self._say = say
        self._began = time.monotonic()
        self._device = resolve_device(plan.device)
        facts = measure.machine(self._device)
        self._matmul = measure.matmul_rate(self._device)
        self._header = facts | {
            "matmul_tflops": record.rounded(self._matmul / 1e12),
            "matmul_size": measure.MATMUL_SIZES[self._device.type],
        }
        if commit:
            self._header["commit"] = commit
        self.file = out / f"{record.slug(facts['gpu'] or 'cpu')}-{what}.json"
        self.rows: list[Row] = []
        self._stock_ms: dict[Bucket, float] = {}
        self._test = SpeedTest(plan.model, self._device, plan.repeats)

    def run(self) -> None:
        """Measure everything. The file is written after every row, so that a run which is cut off leaves one."""
        smallest = self._plan.buckets[0]
        for variant in self._plan.variants:
            for bucket in self._plan.buckets:
                step = self._step(variant, bucket, warm=bucket == smallest)
                if step and variant in self._plan.generating:
                    self._generations(variant, bucket, step, run=bucket == smallest or self._plan.full)

    def _step(self, variant: Variant, bucket: Bucket, warm: bool) -> Step | None:
        row = self._named("step", STEP_COLUMNS, variant, bucket)
        step = self._attempt(row, lambda: self._test.step(variant, bucket, warm=warm))
        if step:
            ms = step.timing.median
            if variant == Variant(STOCK):
                self._stock_ms[bucket] = ms
            stock = self._stock_ms.get(bucket)
            row |= {
                "attention": step.attention,
                "ms_per_step": ms,
                "ms_min": min(step.timing.milliseconds),
                "ms_max": max(step.timing.milliseconds),
                "stock_eager_ms": stock,
                "ratio": stock / ms if stock else None,
                "tflops": step.tflops,
                "matmul_share": step.tflops * 1e12 / self._matmul,
                "peak_gib": step.peak_gib,
                "relative_l2": step.relative_l2,
                "compile_cold_s": step.compile_cold_s,
                "compile_warm_s": step.compile_warm_s,
            }
        self._add(row)
        return step

    def _generations(self, variant: Variant, bucket: Bucket, step: Step, run: bool) -> None:
        """A row for each number of steps; denoising that is not run is computed from the measured step."""
        row = self._named("generation", GENERATION_COLUMNS, variant, bucket) | {"attention": step.attention}
        measured = self._attempt(row, lambda: self._test.generation(bucket, self._plan.steps if run else ()))
        if measured is None:
            self._add(row)
            return
        for count in self._plan.steps:
            denoise = measured.denoise[count] if run else count * step.timing.median / 1000
            phases = _phases(measured, denoise)
            facts = {"steps": count, "seconds": sum(phases.values()), "phases": phases}
            self._add(row | facts | {"denoise": "run" if run else "computed"})

    def _named(self, what: str, columns: tuple[str, ...], variant: Variant, bucket: Bucket) -> Row:
        return dict.fromkeys(columns) | {
            "what": what,
            "model": self._plan.model,
            "bucket": bucket.name,
            "frames": bucket.frames,
            "backend": variant.backend,
            "precision": variant.precision,
            "cfg": variant.cfg,
        }

    def _attempt(self, row: Row, work: Callable[[], Result]) -> Result | None:
        try:
            return work()
        except Exception as error:  # compilers and kernels raise anything; the row says what
            row["error"] = f"{type(error).__name__}: {_first_line(error)}"
            self._test.release(error)
            return None

    def _add(self, row: Row) -> None:
        self.rows.append({name: record.rounded(value) for name, value in row.items()})
        self._header["bench_seconds"] = round(time.monotonic() - self._began)
        record.write(self.file, self.rows, command=self._plan.command, **self._header)
        self._say(f"[{self._header['bench_seconds']:4d} s] {_sentence(self.rows[-1])}")


def _words(text: str) -> list[str]:
    return [word for word in text.replace(" ", "").split(",") if word]


def _chosen(kind: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `known` that `text` names, in the order of `known`."""
    words = _words(text)
    wrong = [word for word in words if word not in known]
    if wrong or not words:
        raise ConfigurationError(f"{kind} {', '.join(wrong)!r} must be one or more of {', '.join(known)}")
    return tuple(word for word in known if word in words)


def _phases(measured: Generation, denoise: float) -> dict[str, float]:
    """Seconds of all phases in their order."""
    seconds = measured.around | {Phase.DENOISE: denoise}
    return {phase.value: seconds[phase] for phase in Phase if phase in seconds}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def _sentence(row: Row) -> str:
    what = f"{row['bucket']}x{row['frames']} {row['backend']} {row['precision']}: "
    if "error" in row:
        return f"{what}{row['error']}"
    if row["what"] == "step":
        return what + f"{row['ms_per_step']} ms a step, {row['tflops']} TFLOP/s, attention {row['attention']}"
    return what + f"{counted(row['steps'], 'step')} in {row['seconds']} s, denoising {row['denoise']}"
