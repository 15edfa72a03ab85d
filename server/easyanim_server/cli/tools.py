"""What the command line asks of engine and video outside a server: look at the machine, write a model."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import huggingface_hub
import psutil

from easyanim_server import catalog
from easyanim_server.cli.findings import Finding
from easyanim_server.config import checks as preflight
from easyanim_server.config import environment, model_checks
from easyanim_server.config import tuned as tuning
from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import ConfigurationError, EasyAnimError
from easyanim_server.domain.job import MAX_STEPS, Job
from easyanim_server.domain.wording import counted
from easyanim_server.engine.cache import store as cache
from easyanim_server.engine.config import EngineConfig
from easyanim_server.engine.devices import describe_devices, device_name, resolve_device, resolve_dtype
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.memory.choose import find_placement
from easyanim_server.engine.step_cache import fit as cachefit
from easyanim_server.engine.step_cache.fit import Fit
from easyanim_server.engine.weights import checkpoint
from easyanim_server.media.encoder import missing_codecs
from easyanim_server.prompts.negative import recommended_negative

GIB = 2**30
ON_ANY_MACHINE = f"--model {catalog.DEMO} runs on any machine"
"""What to do without a card."""

SPOOL_BYTES = 1 * GIB
"""Free space that a busy server's clips take in the temporary folder, generously."""


def export(model: str, folder: Path) -> None:
    """Write `model` as a diffusers folder. See `checkpoint.export`."""
    checkpoint.export(model, folder)


def convert(model: str, revision: str | None, target: Path) -> None:
    """Write `model` as a diffusers folder. See `checkpoint.convert`."""
    checkpoint.convert(model, target, revision)


def warm(settings: Settings, report: Callable[[str], None]) -> list[str]:
    """Build every bucket once, so that the cache holds it; returns a line for each and one for the cache."""
    engine = Engine.from_settings(settings)
    lines = []
    for ready in engine.prepare(settings.buckets_of(engine.capabilities), report):
        how = f"{ready.backend}, {ready.precision}, attention {ready.attention}"
        note = f"; {ready.fallback}" if ready.fallback else ""
        lines.append(f"{ready.bucket}: {how}, built in {ready.build_seconds:.1f} s{note}")
    found = cache.lookups()
    place = cache.version_folder(settings.cache_dir or cache.default_folder(), resolve_device(settings.device))
    return [*lines, f"compiled code: {found.hits} found, {found.misses} made, in {place}"]


def fit_cache(
    settings: Settings, prompts: Sequence[str], generations: int, steps: int, report: Callable[[str], None]
) -> Fit:
    """Fit the step cache to the model that `settings` name, in their first bucket.

    Args:
        settings: Of the engine.
        prompts: They take turns; where there is none, those of `cachefit.PROMPTS`.
        generations: How many; seeds count from 0.
        steps: Of each.
        report: Told what is being done, in one sentence.

    Raises:
        ConfigurationError: the generations do not determine the polynomial.
    """
    if generations < 1 or not 1 <= steps <= MAX_STEPS:
        asked = f"{counted(generations, 'generation')} of {counted(steps, 'step')}"
        raise ConfigurationError(f"{asked}; must be 1 or more of 1 to {MAX_STEPS}")
    cachefit.require_points(cachefit.point_count(generations, steps))  # before the work, not after it
    bucket = settings.catalogue[0]
    prompts = prompts or cachefit.PROMPTS
    chosen = [prompts[number % len(prompts)] for number in range(generations)]
    engine = Engine.from_settings(settings)
    guidance = engine.capabilities.defaults.guidance
    jobs = [
        Job(str(seed), prompt, recommended_negative(prompt), bucket, steps, guidance, seed)
        for seed, prompt in enumerate(chosen)
    ]
    engine.prepare([bucket], report)
    return cachefit.fit_model(engine, jobs, report)


def pack_cache(settings: Settings, file: Path) -> int:
    """See `cache.pack`."""
    return cache.pack(settings.cache_dir, resolve_device(settings.device), file)


def unpack_cache(settings: Settings, file: Path) -> int:
    """See `cache.unpack`."""
    return cache.unpack(settings.cache_dir, resolve_device(settings.device), file)


def examine(settings: Settings) -> list[Finding]:
    """Look at everything that a server with these settings needs."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers", "av", "grpcio"))
    return [
        Finding("python", f"{platform.python_version()} on {platform.platform()}"),
        Finding("libraries", libraries),
        *_devices(),
        _device(settings),
        *_model(settings),
        *_files(settings),
        *_tuned(settings),
        *_served_before(settings),
        _codecs(),
        _spool(),
        _address(settings),
    ]


def _devices() -> list[Finding]:
    found = [Finding(f"GPU {index}", detail) for index, detail in enumerate(describe_devices())]
    return found or [Finding("GPU", "torch sees none")]


def _device(settings: Settings) -> Finding:
    try:
        device = resolve_device(settings.device)
    except EasyAnimError as error:
        return Finding("device", str(error), fatal=True)
    dtype = resolve_dtype(settings.dtype, device)
    detail = f"{settings.device} means {device} with {str(dtype).removeprefix('torch.')} here"
    if device.type == "cpu" and not settings.model.startswith("builtin:"):
        return Finding(
            "device", f"{detail}; a published model takes hours a video there, {ON_ANY_MACHINE}", doubtful=True
        )
    return Finding("device", detail)


def _model(settings: Settings) -> list[Finding]:
    """The model, what it needs of this machine's memory, and where its weights would be."""
    memory = Finding("host memory", f"{_gib(psutil.virtual_memory().total)}, {os.cpu_count()} CPU cores")
    name = settings.model
    try:
        device, unknown_device = resolve_device(settings.device), False
    except EasyAnimError:  # said by another finding
        device, unknown_device = resolve_device("cpu"), True
    dtype = resolve_dtype(settings.dtype, device)
    try:
        model_checks.check_model(name, settings.revision)
        source = _source(settings, checkpoint.inspect(name, settings.revision))
        outlined = checkpoint.like_published(name) if model_checks.is_hosted(name) else name
        if model_checks.is_hosted(outlined):
            unknown = f"known once the configuration of {name} is downloaded"
            return [memory, source, Finding("placement", unknown)]
        outline = checkpoint.outline(outlined, dtype)
    except EasyAnimError as error:
        return [memory, Finding("model", str(error), fatal=True)]
    if unknown_device:
        return [memory, source]
    try:
        asked = settings.model_copy(update={"model": outlined, "revision": None, "tuned": None})
        choice = find_placement(replace(EngineConfig.resolve(asked), buckets=asked.catalogue), lambda: outline)
    except EasyAnimError as error:
        return [memory, source, Finding("placement", str(error), fatal=True)]
    if device.type == "cpu":
        memory = _host_memory(memory.detail, outline.total, str(dtype).removeprefix("torch."))
    named = settings.placement.placement is choice.placement  # and then the reason says so
    placed = choice.reason if named else f"{settings.placement} means {choice.placement} here: {choice.reason}"
    return [memory, source, Finding("placement", placed)]


def _host_memory(detail: str, needed: int, dtype: str) -> Finding:
    """Whether a model's weights fit into host memory, where all of them are on a CPU."""
    free = psutil.virtual_memory().available
    if needed <= free:
        return Finding("host memory", detail)
    lacking = f"{_gib(needed)} of weights in {dtype} do not fit into the {_gib(free)} that are free"
    return Finding("host memory", f"{detail}; {lacking}; {ON_ANY_MACHINE}", fatal=True)


def _source(settings: Settings, absent: Sequence[str]) -> Finding:
    """Where the model comes from; `absent` are files that are still to be downloaded."""
    name = settings.model
    if name == catalog.DEMO:
        return Finding("model", f"{name} comes with this package")
    if model_checks.is_made_here(name):
        return Finding("model", f"{name} is made at start, nothing to download")
    if not model_checks.is_hosted(name):
        return Finding("model", f"{name} is a folder here")
    if not absent:
        return Finding("model", f"{name} is in {checkpoint.host_of(name)}'s cache")
    cache, variable = checkpoint.cache_of(name, settings.revision)
    lacking = f"{name} is not complete on this machine: {cache} lacks {', '.join(absent[:3])}"
    lacking += f" and {len(absent) - 3} more" if len(absent) > 3 else ""
    if huggingface_hub.constants.is_offline_mode():
        return Finding("model", f"{lacking}; HF_HUB_OFFLINE is set, so serve cannot download it", fatal=True)
    blocked = environment.not_writable(cache)
    if blocked:
        return Finding("model", f"{lacking}; serve cannot download it: {blocked}; set {variable}", fatal=True)
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    return Finding("model", f"{lacking}; serve downloads it ({free / GIB:.0f} GiB free for it)")


def _files(settings: Settings) -> list[Finding]:
    try:
        preflight.check_files(settings)
        cache_folder = environment.cache_folder(settings.cache_dir)
    except EasyAnimError as error:
        return [Finding("files", str(error), fatal=True)]
    if environment.will_not_last(cache_folder):
        detail = f"{cache_folder}, which goes with temporary files: the home folder cannot be written; set cache_dir"
        return [Finding("compiled code", detail, doubtful=True)]
    return [Finding("compiled code", str(cache_folder))]


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"


def _tuned(settings: Settings) -> list[Finding]:
    """Where tuned settings come from, and whether they are this machine's."""
    if settings.tuned is None:
        return []
    try:
        found = tuning.read(settings.tuned)
        found.require_device(device_name(resolve_device(settings.device)), settings.tuned)
    except EasyAnimError as error:
        return [Finding("tuning", str(error), fatal=True)]
    values = ", ".join(f"{name} {found.settings[name]}" for name in tuning.TUNABLE if name in found.settings)
    return [Finding("tuning", f"{found.source}: {values}")]


def _served_before(settings: Settings) -> list[Finding]:
    """What the numeric gate measured when the model was last made ready here."""
    try:
        device = resolve_device(settings.device)
    except EasyAnimError:  # said by another finding
        return []
    noted = cache.remembered(settings.model, cache.version_folder(settings.cache_dir or cache.default_folder(), device))
    findings = []
    for facts in noted.get("buckets", ()):
        compared = "nothing to compare, it is the reference"
        if facts["rounding_l2"]:
            compared = (
                f"relative L2 {facts['relative_l2']:.2g} from eager, cosine {facts['cosine']:.6f}; "
                f"eager itself is {facts['rounding_l2']:.2g} from float32"
            )
        how = f"{facts['backend']}, {facts['precision']}, attention {facts['attention']}"
        note = f"; {facts['fallback']}" if facts["fallback"] else ""
        findings.append(Finding(facts["bucket"], f"{how}: {compared}{note} ({noted['time']})"))
    return findings


def _codecs() -> Finding:
    missing = missing_codecs()
    if missing:
        return Finding("video codecs", f"PyAV's libav lacks {', '.join(missing)}", fatal=True)
    return Finding("video codecs", "H.264, VP9 and FFV1 are there")


def _spool() -> Finding:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    enough = free >= SPOOL_BYTES
    detail = f"{folder} has {free / GIB:.1f} GiB free for clips under way"
    return Finding("temporary files", detail if enough else f"{detail}; make room or set TMPDIR", fatal=not enough)


def _address(settings: Settings) -> Finding:
    try:
        preflight.check_address(settings.listen)
    except EasyAnimError as error:
        return Finding("address", str(error), fatal=True)
    return Finding("address", f"{settings.listen} is free")
