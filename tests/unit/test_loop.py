from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from easyanim_server.domain.events import Phase
from easyanim_server.domain.job import Bucket, Job, Picture
from easyanim_server.domain.protocols import Observer
from easyanim_server.engine import loop
from easyanim_server.engine.families.easyanimate_v51.components import Components
from easyanim_server.engine.families.easyanimate_v51.inputs import given_frames, given_video, to_pixels
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.families.runtime import resident
from easyanim_server.engine.guidance import eager_execution
from easyanim_server.engine.prediction import Predictor
from easyanim_server.engine.sampling import Sampling
from tests.models import Broken, breaking, make_job, make_modules, make_picture

TEXT = torch.zeros(1, 256, 64)


def unobserved(phase: Phase, completed: int, total: int) -> None:
    pass


def begun(
    pipeline: EasyAnimatePipeline, job: Job, text: Tensor, negative: Tensor | None, observe: Observer = unobserved
) -> Sampling:
    conditions = {"prompt": {"text": text}} | ({} if negative is None else {"negative_prompt": {"text": negative}})
    return loop.begin(pipeline, job, conditions, resident, observe)


def step(pipeline: EasyAnimatePipeline, sampling: Sampling) -> None:
    loop.step(Predictor(pipeline.denoiser), sampling, eager_execution(pipeline.denoiser))


@pytest.fixture(scope="module")
def modules() -> Components:
    return make_modules()


@pytest.fixture
def sampler(modules: Components) -> EasyAnimatePipeline:
    return EasyAnimatePipeline(modules)


def begin(pipeline: EasyAnimatePipeline, job: Job) -> Sampling:
    return begun(pipeline, job, TEXT, TEXT if job.guidance > 1 else None)


def test_the_first_draw_of_the_seed_is_the_latents_noise(sampler: EasyAnimatePipeline) -> None:
    expected = torch.randn(1, 16, 3, 4, 6, generator=torch.Generator().manual_seed(7))

    assert torch.equal(begin(sampler, make_job(seed=7)).latents, expected)
    assert torch.equal(begin(sampler, make_job(seed=7, pictures=0)).latents, expected)


def test_the_largest_seed_is_accepted(sampler: EasyAnimatePipeline) -> None:
    assert begin(sampler, make_job(seed=2**63 - 1)).latents.isfinite().all()


def test_in_bfloat16_a_seed_starts_from_the_same_noise_rounded() -> None:
    modules = make_modules()
    for network in (modules.transformer, modules.vae):
        network.to(torch.bfloat16)
    job = make_job(pictures=0, bucket="384x672x49")
    expected = torch.randn(1, 16, 13, 48, 84, generator=torch.Generator().manual_seed(0))

    latents = begin(EasyAnimatePipeline(modules), job).latents

    assert torch.equal(latents, expected.bfloat16())
    assert latents.abs().max() > 4  # torch's own draws in bfloat16 end at 3.33


def test_a_text_to_video_sampling_is_given_nothing(sampler: EasyAnimatePipeline) -> None:
    assert torch.equal(begin(sampler, make_job(pictures=0)).inputs["inpaint"], torch.zeros(1, 17, 3, 4, 6))


def test_the_mask_marks_the_first_latent_frame(sampler: EasyAnimatePipeline, modules: Components) -> None:
    expected = torch.zeros(1, 1, 3, 4, 6)
    expected[:, :, 0] = modules.vae.config.scaling_factor

    for pictures in (1, 2):
        assert torch.equal(begin(sampler, make_job(pictures=pictures)).inputs["inpaint"][:, :1], expected)


def test_an_end_picture_changes_the_last_latent_frame_alone(sampler: EasyAnimatePipeline) -> None:
    without, with_end = (begin(sampler, make_job(pictures=pictures)).inputs["inpaint"] for pictures in (1, 2))

    assert [not torch.equal(without[:, :, k], with_end[:, :, k]) for k in range(3)] == [False, False, True]


def test_noise_is_added_to_pictures_but_not_to_their_black_pixels() -> None:
    def video(noise_augmentation: float, picture: Picture) -> Tensor:
        return given_video({0: picture}, noise, noise_augmentation, torch.device("cpu"), torch.float32)

    bucket = Bucket.parse("32x48x5")
    picture = make_picture(bucket)
    noise = torch.randn(3, 5, 32, 48, generator=torch.Generator().manual_seed(0))
    difference = video(0.0563, picture) - video(0.0, picture)
    black = to_pixels(picture) == -1

    assert difference[0, :, 0][~black].std() == pytest.approx(0.0563, rel=0.05)
    assert black.any()
    assert not difference[0, :, 0][black].any()
    assert not difference[:, :, 1:].any()


def test_pixels_span_the_vaes_range() -> None:
    picture = Picture(width=2, height=1, rgb=bytes([0, 255, 51, 255, 0, 102]))
    expected = torch.tensor([[[-1.0, 1.0]], [[1.0, -1.0]], [[-0.6, -0.2]]])

    torch.testing.assert_close(to_pixels(picture), expected)


def test_in_a_single_frame_the_end_picture_wins() -> None:
    job = make_job(bucket="32x48x1", pictures=2)

    assert given_frames(job) == {0: job.end}


def test_the_observer_counts_frames_of_pictures(sampler: EasyAnimatePipeline) -> None:
    seen: list[tuple[Phase, int, int]] = []

    begun(sampler, make_job(), TEXT, None, lambda *event: seen.append(event))

    assert seen == [(Phase.IMAGE_ENCODE, done, 9) for done in (0, 1, 5, 9)]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"start": None}, "an end picture needs a start picture"),
        ({"end": make_picture(Bucket(48, 32, 9))}, "a picture of 48x32 in a bucket of 32x48"),
        ({"start": Picture(48, 32, bytes(5))}, "5 bytes for a picture of 32x48"),
        ({"bucket": Bucket(32, 48, 10)}, "10 frames; must be 4k"),
        ({"bucket": Bucket(32, 48, 53)}, "53 frames; must be 4k"),
    ],
)
def test_a_job_that_cannot_be_done_is_refused(
    sampler: EasyAnimatePipeline, changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        begin(sampler, replace(make_job(pictures=2), **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [1, 2, 35, 200])
def test_the_schedule_is_the_stock_schedulers(sampler: EasyAnimatePipeline, modules: Components, steps: int) -> None:
    stock = copy.deepcopy(modules.scheduler)
    stock.set_timesteps(steps, mu=1)

    sampling = begin(sampler, make_job(pictures=0, steps=steps))

    assert torch.equal(sampling.schedule.sigmas, stock.sigmas)
    assert torch.equal(sampling.schedule.timesteps, stock.timesteps)
    assert sampling.schedule.sigmas[0] == 1
    assert sampling.schedule.sigmas[-1] == 0


def test_the_models_scheduler_is_left_as_it_was(sampler: EasyAnimatePipeline, modules: Components) -> None:
    before = {name: copy.copy(value) for name, value in vars(modules.scheduler).items()}
    sampling = begin(sampler, make_job())
    step(sampler, sampling)

    after = vars(modules.scheduler)
    assert after.keys() == before.keys()
    assert torch.equal(after.pop("sigmas"), before.pop("sigmas"))
    assert torch.equal(after.pop("timesteps"), before.pop("timesteps"))
    assert after == before


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_equals_the_stock_schedulers(dtype: torch.dtype) -> None:
    modules = make_modules()
    for network in (modules.transformer, modules.vae):
        network.to(dtype)
    sampler = EasyAnimatePipeline(modules)
    sampling = begun(sampler, make_job(guidance=1.0), TEXT.to(dtype), None)
    x = sampling.latents
    (velocity,) = Predictor(sampler.denoiser).predict(sampling.network_inputs(), sampling.prompts)
    stock = copy.deepcopy(modules.scheduler)
    stock.set_timesteps(2, mu=1)

    step(sampler, sampling)

    assert sampling.latents.dtype == dtype
    assert torch.equal(sampling.latents, stock.step(velocity, stock.timesteps[0], x, return_dict=False)[0])


def test_guidance_weighs_the_prompt_against_the_negative_prompt(sampler: EasyAnimatePipeline) -> None:
    generator = torch.Generator().manual_seed(0)
    wanted, unwanted = (torch.randn(1, 256, 64, generator=generator) for _ in range(2))
    start = begin(sampler, make_job(steps=1)).latents

    def change(text: Tensor, negative: Tensor | None) -> Tensor:
        sampling = begun(sampler, make_job(steps=1, guidance=3.0), text, negative)
        step(sampler, sampling)
        return sampling.latents - start

    expected = change(unwanted, None) + 3.0 * (change(wanted, None) - change(unwanted, None))

    torch.testing.assert_close(change(wanted, unwanted), expected, rtol=1e-4, atol=1e-4)


def test_a_failed_step_can_be_taken_again(sampler: EasyAnimatePipeline, modules: Components) -> None:
    job = make_job()
    expected, sampling = begin(sampler, job), begin(sampler, job)
    step(sampler, expected)

    with breaking(modules.transformer.proj_out, after=1), pytest.raises(Broken):
        step(sampler, sampling)
    assert sampling.index == 0
    step(sampler, sampling)

    assert torch.equal(sampling.latents, expected.latents)


def test_no_step_is_taken_after_the_last(sampler: EasyAnimatePipeline) -> None:
    sampling = begin(sampler, make_job(steps=1))
    assert not sampling.done
    step(sampler, sampling)
    assert sampling.done

    with pytest.raises(ValueError, match="no step of 1 is left"):
        step(sampler, sampling)
