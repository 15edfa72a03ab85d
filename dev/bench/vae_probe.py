"""Measures the VAE on this machine's GPU: the stock network, and every way in which ours can run.

    PYTHONPATH=. python dev/bench/vae_probe.py                    # published size, random weights, bfloat16
    PYTHONPATH=. python dev/bench/vae_probe.py --seconds 300      # gives Inductor the time that it needs
    PYTHONPATH=. python dev/bench/vae_probe.py --tiny             # a narrow network on the CPU, to try the script

Needs torch, diffusers and Triton, no network. Writes bench/results/<gpu>-vae.json. A variant that fails is
reported and the others go on. For every variant: median milliseconds of up to `ROUNDS` encodes and decodes after the
first, memory beyond weights and inputs, seconds that the first encode and decode took more than later ones (compiling
and choosing kernels), and the relative L2 distance to the stock network in bfloat16 (`to stock`) and in float32 (`to
exact`, of the first frames: the network is causal).
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLMagvit
from torch import Tensor

from dev.bench.vae_inside import convolutions, profiled
from dev.bench.vae_variants import (
    COMPILED,
    EAGER,
    HEADER,
    SEARCH,
    SEARCH_16,
    STOCK,
    TRITON,
    TRITON_8,
    TRITON_16,
    TRITON_48,
    Result,
    Variant,
    row,
    verdicts,
)
from easyanim_server.benchmark import record
from easyanim_server.engine.families.easyanimate_v51.builtin import PUBLISHED_VAE
from easyanim_server.engine.families.easyanimate_v51.vae import VideoAutoencoder

ROUNDS = 5
ROUND_SECONDS = 2.5  # a measurement ends after this, with two rounds at least


class Bench:
    """The networks, the clock and what was measured so far.

    Args:
        device: Where to measure.
        dtype: Of weights and videos.
        config: Of the network.
        seconds: After which nothing new is begun, and what runs is broken off.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, config: dict[str, Any], seconds: float) -> None:
        self.device = device
        self.end = time.perf_counter() + seconds
        self.results: list[Result] = []
        self.references: dict[str, tuple[Tensor, Tensor]] = {}
        self.exact: dict[str, tuple[Tensor, Tensor]] = {}
        torch.manual_seed(0)
        with device:
            self.stock = AutoencoderKLMagvit(**config).eval().requires_grad_(False)
        for parameter in self.stock.parameters():
            parameter.data = parameter.data.to(dtype)
        self.ours = copy.deepcopy(self.stock)  # its weights change their layout
        self.dtype = dtype

    def left(self) -> float:
        """Seconds."""
        return self.end - time.perf_counter()

    def inputs(self, height: int, width: int, frames: int) -> tuple[Tensor, Tensor]:
        """A video and latents that it does not belong to."""
        generator = torch.Generator(self.device).manual_seed(1)
        options: dict[str, Any] = {"generator": generator, "device": self.device}
        video = torch.rand((1, 3, frames, height, width), **options) * 2 - 1
        latents = torch.randn((1, 16, (frames - 1) // 4 + 1, height // 8, width // 8), **options)
        return video.to(self.dtype), latents.to(self.dtype)

    def measure(self, size: tuple[int, int, int], variant: Variant) -> None:
        """Measure one variant, whatever happens in it."""
        result = Result("x".join(map(str, size)), variant.name)
        self.results.append(result)
        try:
            with self.alarm():
                self._measure(size, variant, result)
        except Exception as error:
            result.error = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:160]
            traceback.print_exc(limit=4)
        print(f"[{self.left():4.0f} s left] {row(result)}", flush=True)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _measure(self, size: tuple[int, int, int], variant: Variant, result: Result) -> None:
        video, latents = self.inputs(*size)
        vae = VideoAutoencoder(self.stock if variant is STOCK else self.ours, **variant.arguments)
        with torch.backends.cudnn.flags(enabled=True, benchmark=variant.search):
            began = time.perf_counter()
            encoded = encode(vae, video)
            decoded = torch.cat(list(vae.decode(latents)), dim=2)
            self.synchronize()
            first = time.perf_counter() - began
            if not (encoded.isfinite().all() and decoded.isfinite().all()):
                result.error = "not finite"
            if variant is STOCK:
                self.references[result.size] = encoded, decoded
            if result.size in self.references:
                wanted = self.references[result.size]
                result.encode_to_stock, result.decode_to_stock = map(distance, (encoded, decoded), wanted)
            if result.size in self.exact:
                wanted = self.exact[result.size]
                result.encode_to_exact, result.decode_to_exact = map(distance, (encoded, decoded), wanted)
            del encoded, decoded
            encodes, result.encode_peak_gb = self.timed(lambda: encode(vae, video))
            decodes, result.decode_peak_gb = self.timed(lambda: [None for _ in vae.decode(latents)])
        result.rounds = [encodes, decodes]
        result.encode_ms, result.decode_ms = (statistics.median(times) for times in result.rounds)
        result.first_s = first - (result.encode_ms + result.decode_ms) / 1000
        for other in self.results:
            if other.size == result.size and other.variant == STOCK.name:
                result.encode_speedup = other.encode_ms / result.encode_ms
                result.decode_speedup = other.decode_ms / result.decode_ms

    def timed(self, run: Callable[[], object]) -> tuple[list[float], float]:
        """Milliseconds of each round, and GB beyond what is there before."""
        before = 0
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        times: list[float] = []
        while len(times) < 2 or (len(times) < ROUNDS and sum(times) < ROUND_SECONDS * 1000):
            self.synchronize()
            began = time.perf_counter()
            run()
            self.synchronize()
            times.append((time.perf_counter() - began) * 1000)
        peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0
        return times, (peak - before) / 1e9

    def reference(self, size: tuple[int, int, int], frames: int) -> None:
        """Compute the first frames as the stock network does, with the same weights in float32."""
        name = "x".join(map(str, size))
        try:
            with self.alarm(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                video, latents = self.inputs(*size)
                vae = VideoAutoencoder(copy.deepcopy(self.stock).float(), path="stock")
                encoded = encode(vae, video[:, :, :frames].float())
                decoded = torch.cat(list(vae.decode(latents[:, :, : (frames - 1) // 4 + 1].float())), dim=2)
                self.exact[name] = encoded, decoded
        except Exception:
            traceback.print_exc(limit=4)

    @contextmanager
    def alarm(self) -> Iterator[None]:
        """Break off what runs when the time is over."""

        def stop(*_: object) -> None:
            raise TimeoutError("no time left")

        if self.left() < 1:
            raise TimeoutError("no time left")
        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, self.left())
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def encode(vae: VideoAutoencoder, video: Tensor) -> Tensor:
    return vae.encode(video, lambda done, total: None)


def distance(ours: Tensor, wanted: Tensor) -> float:
    """Relative L2 of as many frames as are wanted, summed in float64 one by one."""
    parts = zip(ours.unbind(2), wanted.unbind(2), strict=False)
    sums = [((a.double() - b.double()).square().sum(), b.double().square().sum()) for a, b in parts]
    return float((sum(error for error, _ in sums) / sum(norm for _, norm in sums)) ** 0.5)


def guarded(bench: Bench, what: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    try:
        with bench.alarm():
            return what()
    except Exception as error:
        traceback.print_exc(limit=4)
        return [{"error": str(error)}]


def apart(bench: Bench, tiny: bool) -> None:
    """Measure in a process of its own what would change what comes after it.

    PyTorch remembers a convolution's kernel for every shape, however it was chosen; and chunks of more than 2^31
    numbers may break the device's context.
    """
    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder) / "known.pt"
        torch.save((bench.references, bench.exact), known)
        command = [sys.executable, __file__, "--apart", str(known), "--seconds", str(bench.left() - 15)]
        try:
            subprocess.run([*command, *(["--tiny"] if tiny else [])], timeout=max(bench.left(), 1), check=True)
        except (subprocess.SubprocessError, OSError) as error:
            print(f"apart: {error}")
        measured = known.with_suffix(".json")
        if measured.exists():
            base = next(other for other in bench.results if other.variant == STOCK.name)
            for fields in json.loads(measured.read_text()):
                result = Result(**fields)
                result.encode_speedup = base.encode_ms / result.encode_ms
                result.decode_speedup = base.decode_ms / result.decode_ms
                bench.results.append(result)


def measure_apart(bench: Bench, size: tuple[int, int, int], known: Path) -> None:
    bench.references, bench.exact = torch.load(known, map_location=bench.device)
    for variant in (SEARCH, SEARCH_16, TRITON_48):
        bench.measure(size, variant)
        known.with_suffix(".json").write_text(json.dumps([asdict(result) for result in bench.results]))


def finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return None if value != value else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a narrow network and short videos on the CPU")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="folder for the results")
    parser.add_argument("--commit", help="what is measured, where there is no clone to ask")
    parser.add_argument("--seconds", type=float, default=140, help="after which what runs is broken off")
    parser.add_argument("--apart", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tiny:
        config = {"block_out_channels": (16, 32, 32, 32), "latent_channels": 16, "norm_num_groups": 8}
        bench = Bench(torch.device("cpu"), torch.float32, config, options.seconds)
        small, large = (32, 48, 9), (64, 96, 9)
    else:
        bench = Bench(torch.device("cuda"), torch.bfloat16, PUBLISHED_VAE, options.seconds)
        small, large = (384, 672, 49), (768, 1344, 49)
    if options.apart:
        measure_apart(bench, small, options.apart)
        return

    extras: dict[str, Any] = {}
    bench.reference(small, frames=5 if options.tiny else 17)
    for variant in (STOCK, TRITON, TRITON_16, TRITON_8):
        bench.measure(small, variant)
    if not options.tiny:
        extras["kernels"] = guarded(
            bench, lambda: profiled(VideoAutoencoder(bench.ours, **TRITON.arguments), *bench.inputs(*small))
        )
    bench.reference(large, frames=5)
    for variant in (STOCK, TRITON, TRITON_16):
        bench.measure(large, variant)
    apart(bench, options.tiny)
    if not options.tiny:
        extras["convolutions"] = guarded(bench, lambda: convolutions(bench.device, bench.dtype, bench.timed))
    for variant in (EAGER, COMPILED):
        bench.measure(small, variant)

    device = torch.cuda.get_device_name() if bench.device.type == "cuda" else platform.processor() or "cpu"
    header = {"gpu": device, "torch": torch.__version__, "cudnn": torch.backends.cudnn.version(), **extras}
    if options.commit:
        header["commit"] = options.commit
    slug = device.lower().removeprefix("nvidia ").split()[0] if bench.device.type == "cuda" else "cpu"
    file = options.out / f"{slug}-vae.json"
    record.write(
        file,
        [finite(asdict(result)) for result in bench.results],
        command="PYTHONPATH=. python dev/bench/vae_probe.py",
        **header,
    )
    print(f"\n{device}, torch {torch.__version__}; milliseconds, written to {file}")
    print(HEADER)
    for result in bench.results:
        print(row(result))
    for verdict in verdicts(bench.results):
        print(verdict)


if __name__ == "__main__":
    main()
