"""Prometheus metrics: what happens to calls, jobs and workers. Labels are bounded and never hold a prompt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from easyanim_server import __version__
from easyanim_server.domain.errors import (
    DiskFull,
    EasyAnimError,
    GenerationFailed,
    IntakeFull,
    InvalidArgument,
    JobCancelled,
    NotReady,
    OutOfDeviceMemory,
    PicturesBusy,
    QueueFull,
    ResultDropped,
    ResultExpired,
    ShuttingDown,
    WorkerLost,
)
from easyanim_server.domain.events import Chunk, Completed, Phase, Progress
from easyanim_server.domain.job import Job
from easyanim_server.domain.model import Lookups, WorkerInfo
from easyanim_server.telemetry.devices import DeviceStatus
from easyanim_server.telemetry.observer import JobObserver
from easyanim_server.telemetry.output import dropped_lines

PLAN = ("bucket", "backend", "precision")
"""How a job was run: all that its speed depends on, apart from guidance."""

SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Seconds of what should be over at once: calls, cancels."""
STEP = (0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 30, 60)
"""Seconds of one denoising step, from a toy on a CPU to the largest bucket on a small card."""
LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 3600)
"""Seconds of waits, phases and whole jobs."""

STATES = ("STARTING", "SERVING", "DRAINING")
COMPLETED = "COMPLETED"
"""Outcome of a job that ended in a video; the others are the reasons that callers see in `ErrorInfo`."""

FAILURES = (
    JobCancelled, WorkerLost, GenerationFailed, OutOfDeviceMemory, ShuttingDown, DiskFull, ResultDropped, ResultExpired,
)  # fmt: skip
LOSSES = ("DIED", "STUCK")
DROPS = (ResultDropped, ResultExpired)
REFUSALS = (InvalidArgument, QueueFull, IntakeFull, PicturesBusy, DiskFull, NotReady, ShuttingDown)
"""These are there from the start, as zeros: a rate does not see the first of what was not there before."""


@dataclass(frozen=True)
class Load:
    """What the server has to do at one moment."""

    state: str
    """``STARTING``, ``SERVING`` or ``DRAINING``."""
    waiting: int
    running: int
    limit: int
    """Jobs that may wait."""
    seconds: float
    """Expected time until all admitted jobs are done."""
    result_bytes: int = 0
    """Bytes of files on disk that wait to be read."""


class Metrics(JobObserver):
    """All metrics of one server, in a registry of their own."""

    def __init__(self, read_load: Callable[[], Load], read_devices: Callable[[], Sequence[DeviceStatus]]) -> None:
        """Register everything; what has labels appears with its first value.

        Args:
            read_load: Asked at every scrape, from the scraper's thread.
            read_devices: The same.
        """
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(LoadCollector(read_load))
        registry.register(DeviceCollector(read_devices))
        self._plans: dict[str, tuple[str, str, str]] = {}
        self._lookups = Lookups()
        self._step_began: dict[str, float] = {}
        self._cancelling: dict[str, float] = {}

        self._server = Info("easyanim_server", "What is served.", registry=registry)
        self._server.info({"version": __version__})
        self._register_calls_and_jobs()
        self._register_workers()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=bounds, registry=self.registry)

    def _register_calls_and_jobs(self) -> None:
        self._calls = self._counter("easyanim_calls", "Calls that ended, by gRPC code.", "method", "code")
        self._call_seconds = self._histogram("easyanim_call_seconds", "Whole calls, streams included.", LONG, "method")
        self._refusals = self._counter(
            "easyanim_refusals", "Requests that got no place in the queue, by ErrorInfo reason.", "reason"
        )
        self._jobs = self._counter(
            "easyanim_jobs", "Jobs that ended: COMPLETED, or the ErrorInfo reason.", "bucket", "outcome"
        )
        self._restarts = self._counter(
            "easyanim_job_restarts", "Jobs that were begun anew since their worker was lost.", "bucket"
        )
        self._queue_seconds = self._histogram(
            "easyanim_queue_seconds", "From acceptance, or from the worker's loss, to the start of work.", LONG
        )
        self._job_seconds = self._histogram("easyanim_job_seconds", "Work on a completed job.", LONG, *PLAN)
        self._phase_seconds = self._histogram(
            "easyanim_phase_seconds", "A phase of a completed job.", LONG, "phase", *PLAN
        )
        self._encode_seconds = self._histogram(
            "easyanim_video_encode_seconds", "The video encoder's share of DECODE.", SHORT, "bucket", "format"
        )
        self._step_seconds = self._histogram("easyanim_step_seconds", "One denoising step.", STEP, *PLAN)
        self._cancel_seconds = self._histogram(
            "easyanim_cancel_to_free_seconds", "From the caller's leaving until the worker was free.", SHORT, "bucket"
        )
        self._sent = self._counter("easyanim_sent_bytes", "Bytes of videos that went to callers.")
        self._drops = self._counter(
            "easyanim_results_dropped", "Files that were given up since their callers did not read them.", "reason"
        )
        for drop in DROPS:
            self._drops.labels(drop.reason)
        self._cache_lookups = self._counter(
            "easyanim_cache_lookups", "Lookups of prompt embeddings and compiled graphs.", "cache", "result"
        )
        self._peak_bytes = Gauge(
            "easyanim_job_peak_device_bytes",
            "The allocator's peak in the last job.",
            ["bucket"],
            registry=self.registry,
        )
        for kind in REFUSALS:
            self._refusals.labels(kind.reason)

    def _register_workers(self) -> None:
        self._worker_starts = self._counter("easyanim_worker_starts", "Worker processes that became ready.")
        self._worker_losses = self._counter(
            "easyanim_worker_losses", "Worker processes that died, or that were stuck and killed.", "reason"
        )
        for reason in LOSSES:
            self._worker_losses.labels(reason)
        self._plan = Gauge(
            "easyanim_plan_build_seconds",
            "How a shape is served, and how long it took to make that ready.",
            ["bucket", "backend", "precision", "attention"],
            registry=self.registry,
        )
        self._fallbacks = Gauge(
            "easyanim_plan_fallbacks",
            "Shapes served by another backend than the configured one.",
            registry=self.registry,
        )

    def answered(self, method: str, code: str, seconds: float) -> None:
        """Count the call by code."""
        self._calls.labels(method, code).inc()
        self._call_seconds.labels(method).observe(seconds)

    def refused(self, error: EasyAnimError) -> None:
        """Count the refusal by reason."""
        self._refusals.labels(error.reason).inc()

    def started(self, job: Job, waited: float) -> None:
        """Note the time in the queue."""
        self._queue_seconds.observe(waited)

    def said(self, job: Job, event: Progress | Chunk | Completed) -> None:
        """Note every step, and a completed job's phases."""
        if isinstance(event, Progress) and event.phase is Phase.DENOISE:
            if event.completed > 0 and (began := self._step_began.get(job.id)) is not None:
                self._step_seconds.labels(*self._plan_of(job)).observe(event.elapsed - began)
            self._step_began[job.id] = event.elapsed
        elif isinstance(event, Completed):
            plan = (str(job.bucket), event.readiness.backend, event.readiness.precision)
            self._job_seconds.labels(*plan).observe(event.total_seconds)
            for phase, seconds in event.seconds.items():
                self._phase_seconds.labels(phase.value, *plan).observe(seconds)
            self._encode_seconds.labels(plan[0], job.output.value).observe(event.encoding.busy)
            self._peak_bytes.labels(plan[0]).set(event.peak_device_bytes)
            self._count(event.lookups)

    def restarted(self, job: Job, failure: EasyAnimError) -> None:
        """Count the restart."""
        self._restarts.labels(str(job.bucket)).inc()
        self._step_began.pop(job.id, None)

    def cancelling(self, job: Job) -> None:
        """Begin to time how long the worker takes to leave the job."""
        self._cancelling[job.id] = time.monotonic()

    def ended(self, job: Job, failure: EasyAnimError | None) -> None:
        """Count the job by outcome."""
        self._jobs.labels(str(job.bucket), failure.reason if failure else COMPLETED).inc()
        self._step_began.pop(job.id, None)
        if (asked := self._cancelling.pop(job.id, None)) is not None:
            self._cancel_seconds.labels(str(job.bucket)).observe(time.monotonic() - asked)

    def dropped(self, error: EasyAnimError) -> None:
        """Count the file by reason."""
        self._drops.labels(error.reason).inc()

    def sent(self, size: int) -> None:
        """Count the bytes."""
        self._sent.inc(size)

    def worker_ready(self, served: WorkerInfo) -> None:
        """Note what is served, and how."""
        model, found = served.model, served.lookups
        self._server.info(
            {
                "version": __version__,
                "model": model.name,
                "device": model.device,
                "dtype": model.dtype,
                "attention_mode": model.attention_mode,
            }
        )
        self._worker_starts.inc()
        # The process's own warm-up is nobody's prompt, and its compiled graphs are what warm caches are judged by.
        self._lookups = Lookups(found.text_hits, found.text_misses)
        self._count(found)
        self._plan.clear()
        for item in served.buckets:
            self._plans[str(item.bucket)] = (str(item.bucket), item.backend, item.precision)
            for outcome in (COMPLETED, *(kind.reason for kind in FAILURES)):
                self._jobs.labels(str(item.bucket), outcome)
            self._restarts.labels(str(item.bucket))
            self._plan.labels(*self._plans[str(item.bucket)], item.attention).set(item.build_seconds)
        self._fallbacks.set(sum(bool(item.fallback) for item in served.buckets))

    def worker_lost(self, stuck: bool) -> None:
        """Count the loss by reason."""
        self._worker_losses.labels(LOSSES[stuck]).inc()

    def _plan_of(self, job: Job) -> tuple[str, str, str]:
        return self._plans.get(str(job.bucket), (str(job.bucket), "unknown", "unknown"))

    def _count(self, now: Lookups) -> None:
        """Count what was looked up since the last time; workers count from their own beginning."""
        before, self._lookups = self._lookups, now
        for cache, result, count in (
            ("text", "hit", now.text_hits - before.text_hits),
            ("text", "miss", now.text_misses - before.text_misses),
            ("compile", "hit", now.compile_hits - before.compile_hits),
            ("compile", "miss", now.compile_misses - before.compile_misses),
        ):
            self._cache_lookups.labels(cache, result).inc(max(0, count))


class LoadCollector(Collector):
    """Gauges on what there is to do, read when they are asked for."""

    def __init__(self, read: Callable[[], Load]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """One family for each gauge."""
        load = self._read()
        states = GaugeMetricFamily("easyanim_state", "Whether requests are served: 1 at what holds.", labels=["state"])
        for state in STATES:
            states.add_metric([state], float(state == load.state))
        yield states
        yield GaugeMetricFamily("easyanim_queue_length", "Jobs that wait.", load.waiting)
        yield GaugeMetricFamily("easyanim_queue_limit", "Jobs that may wait; the next one is refused.", load.limit)
        yield GaugeMetricFamily("easyanim_jobs_running", "Jobs that run.", load.running)
        yield GaugeMetricFamily(
            "easyanim_backlog_seconds", "Expected time until all admitted jobs are done.", load.seconds
        )
        yield GaugeMetricFamily(
            "easyanim_result_bytes", "Bytes of files on disk that wait to be read.", load.result_bytes
        )
        yield CounterMetricFamily(
            "easyanim_output_lines_dropped", "Lines of stdout and stderr that nobody read.", dropped_lines()
        )


class DeviceCollector(Collector):
    """Gauges of the worker's devices as the driver reports them; none without an NVIDIA device."""

    def __init__(self, read: Callable[[], Sequence[DeviceStatus]]) -> None:
        self._read = read

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One family for each gauge, one sample for each device that tells it."""
        devices = self._read()
        gauges: tuple[tuple[str, str, Callable[[DeviceStatus], float | None]], ...] = (
            ("memory_used_bytes", "Memory in use, by other processes too.", lambda device: device.memory_used),
            ("memory_total_bytes", "All memory.", lambda device: device.memory_total),
            ("utilization_ratio", "Share of the last moments in which it worked.", lambda device: device.utilization),
            ("temperature_celsius", "Temperature.", lambda device: device.temperature),
            ("power_watts", "Power that it draws.", lambda device: device.power),
        )
        for name, text, value in gauges:
            family = GaugeMetricFamily(f"easyanim_device_{name}", text, labels=["device", "name"])
            for device in devices:
                if (measured := value(device)) is not None:
                    family.add_metric([str(device.index), device.name], measured)
            yield family
