from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import ConfigurationError, OutOfDeviceMemory
from easyanim_server.domain.events import Phase
from easyanim_server.domain.job import Bucket, Job
from easyanim_server.engine.devices import resolve_device, resolve_dtype
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v51.components import Components
from easyanim_server.engine.weights import checkpoint
from tests.models import Broken, breaking, engine_of, make_job, make_modules, run


def shortage() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.fixture
def modules() -> Components:
    return make_modules()


@pytest.fixture
def engine(modules: Components) -> Engine:
    return engine_of(modules)


def render(engine: Engine, job: Job) -> NDArray[np.uint8]:
    """A job from begin to end, (frames, height, width, 3)."""
    return np.concatenate(list(engine.decode(run(engine, job))))


@pytest.fixture(scope="module")
def fresh() -> NDArray[np.uint8]:
    """What a fresh engine renders of `make_job()`."""
    return render(engine_of(make_modules()), make_job())


def test_frames_come_as_pixels_on_the_host_in_groups_of_one_then_four(engine: Engine) -> None:
    groups = list(engine.decode(run(engine, make_job(bucket="48x32x9"))))

    assert [group.shape for group in groups] == [(1, 48, 32, 3), (4, 48, 32, 3), (4, 48, 32, 3)]
    assert all(group.dtype == np.uint8 and group.flags.c_contiguous for group in groups)


def test_the_same_job_gives_the_same_bits_twice_and_in_another_engine(engine: Engine, fresh: NDArray[np.uint8]) -> None:
    first, second = run(engine, make_job()), run(engine, make_job())

    assert torch.equal(first.latents, second.latents)
    assert np.array_equal(render(engine, make_job()), fresh)


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"prompt": "a dog"}, {"negative_prompt": "bad"}, {"guidance": 5.0}, {"steps": 3}, {"pictures": 2}],
    ids=lambda changes: next(iter(changes)),
)
def test_every_parameter_changes_the_video(
    engine: Engine, fresh: NDArray[np.uint8], changes: dict[str, object]
) -> None:
    assert not np.array_equal(render(engine, make_job(**changes)), fresh)  # type: ignore[arg-type]


def test_without_guidance_the_negative_prompt_is_not_read(engine: Engine) -> None:
    first = run(engine, make_job(guidance=1.0, negative_prompt="ugly"))
    second = run(engine, make_job(guidance=1.0, negative_prompt="bad"))

    assert torch.equal(first.latents, second.latents)


def test_samplings_that_take_turns_give_what_each_gives_alone(engine: Engine) -> None:
    jobs = make_job(), make_job(bucket="48x32x5", pictures=2, steps=4, seed=1), make_job(pictures=0, guidance=1.0)
    alone = [render(engine, job) for job in jobs]

    samplings = [engine.begin(job) for job in jobs]
    while not all(sampling.done for sampling in samplings):
        for sampling in samplings:
            if not sampling.done:
                engine.step(sampling)
    decodes = [engine.decode(sampling) for sampling in samplings]
    groups: list[list[NDArray[np.uint8]]] = [[] for _ in jobs]
    for _ in range(3):
        for frames, decode in zip(groups, decodes, strict=True):
            frames.extend([group] if (group := next(decode, None)) is not None else [])

    for frames, expected in zip(groups, alone, strict=True):
        assert np.array_equal(np.concatenate(frames), expected)


def test_the_observer_is_told_of_every_unit(engine: Engine) -> None:
    seen: list[tuple[Phase, int, int]] = []
    engine.begin(make_job(), lambda *event: seen.append(event))

    text = [(Phase.TEXT_ENCODE, done, 2) for done in (0, 1, 2)]
    pictures = [(Phase.IMAGE_ENCODE, done, 9) for done in (0, 1, 5, 9)]
    assert seen == text + pictures


def test_the_observer_is_not_told_of_what_does_not_happen(engine: Engine) -> None:
    seen: list[tuple[Phase, int, int]] = []
    engine.begin(make_job(guidance=1.0, pictures=0), lambda *event: seen.append(event))

    assert seen == [(Phase.TEXT_ENCODE, 0, 1), (Phase.TEXT_ENCODE, 1, 1)]


@pytest.mark.parametrize("event", [(Phase.TEXT_ENCODE, 1, 2), (Phase.IMAGE_ENCODE, 0, 9), (Phase.IMAGE_ENCODE, 5, 9)])
def test_after_the_observer_has_left_the_engine_is_as_good_as_new(
    engine: Engine, fresh: NDArray[np.uint8], event: tuple[Phase, int, int]
) -> None:
    def leave(*seen: object) -> None:
        if seen == event:
            raise Broken

    with pytest.raises(Broken):
        engine.begin(make_job(seed=1, prompt="a dog", pictures=2), leave)

    assert np.array_equal(render(engine, make_job()), fresh)


PLACES: dict[str, Callable[[Components], nn.Module]] = {
    "text encoder": lambda modules: modules.text_encoder.get_submodule("model.layers.1"),
    "VAE's encoder": lambda modules: modules.vae.encoder.mid_block,
    "transformer": lambda modules: modules.transformer.proj_out,
    "VAE's decoder": lambda modules: modules.vae.decoder.up_blocks[1],
}


@pytest.mark.parametrize("place", PLACES)
def test_after_a_failure_the_engine_is_as_good_as_new(
    modules: Components, engine: Engine, fresh: NDArray[np.uint8], place: str
) -> None:
    with breaking(PLACES[place](modules), after=1), pytest.raises(Broken):
        render(engine, make_job(seed=1, prompt="a dog", pictures=2))

    assert np.array_equal(render(engine, make_job()), fresh)


def test_after_an_abandoned_decode_the_engine_is_as_good_as_new(engine: Engine, fresh: NDArray[np.uint8]) -> None:
    abandoned = engine.decode(run(engine, make_job(seed=1)))
    next(abandoned)
    next(abandoned)

    assert np.array_equal(render(engine, make_job()), fresh)


@pytest.mark.parametrize("place", PLACES)
def test_a_shortage_of_device_memory_has_a_name_and_passes(
    modules: Components, engine: Engine, fresh: NDArray[np.uint8], place: str
) -> None:
    error = shortage()
    with (
        breaking(PLACES[place](modules), after=1, error=error),
        pytest.raises(OutOfDeviceMemory, match="cpu has too little free memory") as caught,
    ):
        render(engine, make_job(pictures=2, prompt="a dog"))

    assert caught.value.__cause__ is error
    assert np.array_equal(render(engine, make_job()), fresh)


def test_a_shortage_lets_go_of_the_tensors_that_its_traceback_held(modules: Components, engine: Engine) -> None:
    with (
        breaking(modules.transformer.proj_out, error=shortage()),
        pytest.raises(OutOfDeviceMemory) as caught,
    ):
        run(engine, make_job())

    held, entry = [], caught.value.__cause__ and caught.value.__cause__.__traceback__
    while entry:
        is_engine = entry.tb_frame.f_code.co_filename.endswith(
            ("prediction.py", "transformer.py", "transformer_easyanimate.py")
        )
        held += [value for value in entry.tb_frame.f_locals.values() if is_engine and isinstance(value, torch.Tensor)]
        entry = entry.tb_next
    assert held == []


def test_preparing_runs_every_distinct_shape_once(modules: Components, engine: Engine) -> None:
    buckets = [Bucket.parse(name) for name in ("32x48x5", "48x32x1", "32x48x5")]
    with breaking(modules.transformer.proj_out, after=100) as steps, breaking(modules.vae.decoder, after=100) as groups:
        ready = engine.prepare(buckets)

    assert [item.bucket for item in ready] == buckets[:2]
    assert steps.calls == 2 * (1 + 2)  # when it is built, then a step with and without the prompt
    assert groups.calls == 2 + 1


def test_the_model_says_what_it_is(modules: Components, engine: Engine) -> None:
    model = engine.model

    assert (model.name, model.dtype, model.device, model.attention_mode) == (
        "builtin:tiny",
        "float32",
        "cpu",
        "original",
    )
    assert model.fingerprint == modules.fingerprint()
    assert model.parameters == sum(weight.numel() for weight in modules.transformer.parameters())
    libraries = {name: version(name) for name in ("torch", "diffusers", "transformers")}
    assert model.versions == {"easyanim": version("easyanim-server"), **libraries}


def test_on_the_cpu_no_device_memory_is_used(engine: Engine) -> None:
    assert engine.peak_bytes(reset=True) == 0


def test_settings_choose_model_device_type_mode_and_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {
        "model": "builtin:tiny",
        "device": "cpu",
        "dtype": "bfloat16",
        "attention_mode": "diffusers",
    }
    engine = Engine.from_settings(Settings(**given, noise_augmentation=0.0))
    noisy = Engine.from_settings(Settings(**given))

    assert (engine.model.dtype, engine.model.attention_mode) == ("bfloat16", "diffusers")
    assert not torch.equal(engine.begin(make_job()).inputs["inpaint"], noisy.begin(make_job()).inputs["inpaint"])
    assert render(engine, make_job()).shape == (9, 32, 48, 3)


def test_settings_choose_the_number_of_threads() -> None:
    threads = torch.get_num_threads()
    try:
        Engine.from_settings(Settings(model="builtin:tiny", device="cpu", cpu_threads=2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "meta", "mps", "cuda:63"])
def test_a_device_that_is_not_there_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigurationError, match=repr(name)):
        resolve_device(name)


def test_the_device_is_chosen_by_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, device in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        monkeypatch.setattr(torch.cuda, "device_count", lambda there=there: int(there))
        assert resolve_device("auto") == torch.device(device)


def test_the_compute_type_is_chosen_by_the_device() -> None:
    cpu = torch.device("cpu")

    assert resolve_dtype("auto", cpu) is torch.float32  # a card's is in test_float16
    assert [resolve_dtype(name, cpu) for name in ("float32", "bfloat16")] == [torch.float32, torch.bfloat16]


def test_the_documented_script_runs_without_server_protobuf_and_environment() -> None:
    script = """
import doctest, sys
from easyanim_server.engine import engine
failed, tried = doctest.testmod(engine)
assert tried and not failed
foreign = {"grpc", "google.protobuf", "easyanim", "av", "structlog", "easyanim_server.rpc", "easyanim_server.jobs"}
assert not foreign & set(sys.modules), foreign & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={"OMP_NUM_THREADS": "1"}, timeout=120)


def test_the_checkpoints_tiny_model_is_the_one_of_these_tests(fresh: NDArray[np.uint8]) -> None:
    modules = checkpoint.load("builtin:tiny", device=torch.device("cpu"), dtype=torch.float32)

    assert np.array_equal(render(engine_of(modules), replace(make_job(), id="2")), fresh)
