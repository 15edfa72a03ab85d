"""Defects of diffusers' EasyAnimate port: each test shows one in the stock code first, then that ours has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLMagvit
from diffusers.pipelines.easyanimate.pipeline_easyanimate_inpaint import (
    add_noise_to_reference_video,
    get_image_to_video_latent,
)
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

from easyanim_server.domain.job import Bucket
from easyanim_server.engine import loop
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.families.easyanimate_v51.text import prompt_tokenizer
from easyanim_server.engine.families.runtime import resident
from tests.models import (
    Broken,
    breaking,
    engine_of,
    make_job,
    make_modules,
    make_pipeline,
    reference,
    run,
    shared_pipeline,
    to_pil,
)

IMAGE_TO_VIDEO = make_job(steps=1)
TEXT_TO_VIDEO = make_job(steps=1, pictures=0, bucket="32x48x13")


def test_a_frame_count_that_the_vae_cannot_make() -> None:
    """Stock: an error from deep inside for a picture, fewer frames than asked for without one."""
    ten = Bucket(height=32, width=48, frames=10)
    stock = make_pipeline()
    with pytest.raises(ValueError, match="non-empty list"):
        reference(stock, replace(IMAGE_TO_VIDEO, bucket=ten))
    assert len(reference(stock, replace(TEXT_TO_VIDEO, bucket=ten))[1]) == 9

    ours = engine_of(make_modules())
    for job in (IMAGE_TO_VIDEO, TEXT_TO_VIDEO):
        with pytest.raises(ValueError, match="10 frames; must be 4k"):
            ours.begin(replace(job, bucket=ten))


def test_a_failed_encode_breaks_all_later_pictures() -> None:
    """Stock: features that the failure leaves in the VAE are taken for those of the next video's past."""
    stock = make_pipeline()
    with breaking(stock.vae.encoder, after=2), pytest.raises(Broken):
        reference(stock, IMAGE_TO_VIDEO)
    for _ in range(2):
        with pytest.raises(ValueError, match="non-empty list"):
            reference(stock, IMAGE_TO_VIDEO)

    modules = make_modules()
    ours, fresh = engine_of(modules), engine_of(make_modules())
    with breaking(modules.vae.encoder, after=2), pytest.raises(Broken):
        ours.begin(IMAGE_TO_VIDEO)
    assert torch.equal(run(ours, IMAGE_TO_VIDEO).latents, run(fresh, IMAGE_TO_VIDEO).latents)


def test_a_failed_encode_breaks_pictures_of_other_sizes() -> None:
    """Stock: the features that were left have another height and width."""
    other = make_job(steps=1, bucket="48x32x9")
    stock = make_pipeline()
    with breaking(stock.vae.encoder, after=2), pytest.raises(Broken):
        reference(stock, IMAGE_TO_VIDEO)
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        reference(stock, other)

    modules = make_modules()
    ours, fresh = engine_of(modules), engine_of(make_modules())
    with breaking(modules.vae.encoder, after=2), pytest.raises(Broken):
        ours.begin(IMAGE_TO_VIDEO)
    assert torch.equal(run(ours, other).latents, run(fresh, other).latents)


def test_a_failed_decode_leaks_into_the_next_video() -> None:
    """Stock: a video from text gets 16 frames instead of 13, drawn on the features of whoever came before."""
    stock = make_pipeline()
    with breaking(stock.vae.decoder, after=2), pytest.raises(Broken):
        reference(stock, TEXT_TO_VIDEO)
    assert len(reference(stock, TEXT_TO_VIDEO)[1]) == 16

    modules = make_modules()
    ours, fresh = engine_of(modules), engine_of(make_modules())
    with breaking(modules.vae.decoder, after=2), pytest.raises(Broken):
        list(ours.decode(run(ours, TEXT_TO_VIDEO)))
    groups, expected = (list(engine.decode(run(engine, TEXT_TO_VIDEO))) for engine in (ours, fresh))
    assert [len(group) for group in groups] == [1, 4, 4, 4]
    assert all((group == wanted).all() for group, wanted in zip(groups, expected, strict=True))


def test_seeds_serve_one_call_and_one_device_only() -> None:
    """Stock: no list of generators, and noise for pictures is not drawn where the generator is, but where they are."""
    with pytest.raises(TypeError):
        reference(shared_pipeline(), IMAGE_TO_VIDEO, generator=[torch.Generator().manual_seed(0)])
    generator = torch.Generator("cpu")
    untouched = generator.get_state()
    add_noise_to_reference_video(torch.empty(1, 3, 1, 8, 8, device="meta"), 0.1, generator)
    assert torch.equal(generator.get_state(), untouched)

    elsewhere = make_modules()
    for network in (elsewhere.transformer, elsewhere.vae):
        network.to("meta")
    pipeline = EasyAnimatePipeline(elsewhere)
    begun = loop.begin(pipeline, IMAGE_TO_VIDEO, {}, resident, lambda *_: None)
    assert begun.inputs["inpaint"].is_meta
    ours = engine_of(make_modules())
    first, second = (ours.begin(make_job(seed=seed)) for seed in range(2))
    assert not torch.equal(first.latents, second.latents)


def test_guidance_needs_a_negative_prompt_that_is_none_by_default() -> None:
    """Stock: the defaults of the call contradict each other."""
    with pytest.raises(TypeError, match="not iterable"):
        reference(shared_pipeline(), TEXT_TO_VIDEO, negative_prompt=None)

    assert run(engine_of(make_modules()), replace(TEXT_TO_VIDEO, negative_prompt="")).latents.isfinite().all()


def test_the_compute_type_is_the_text_encoders() -> None:
    """Stock: with a text encoder in float32, a transformer in bfloat16 is given float32."""

    def narrowed(owner: Any) -> Any:
        for name in ("transformer", "vae"):
            getattr(owner, name).to(torch.bfloat16)
        return owner

    with pytest.raises(RuntimeError, match="type"):
        reference(narrowed(make_pipeline()), IMAGE_TO_VIDEO)

    ours = engine_of(narrowed(make_modules()))
    assert run(ours, IMAGE_TO_VIDEO).latents.dtype == torch.bfloat16


def test_pictures_of_other_kinds_break_the_helper() -> None:
    """Stock: lists of end pictures, transparency and grey break it; ours takes RGB, and one picture at each end."""
    picture = to_pil(IMAGE_TO_VIDEO.start)
    assert picture is not None
    with pytest.raises(RuntimeError, match="must match"):
        get_image_to_video_latent([picture], [picture, picture, picture], 9, (32, 48))
    assert get_image_to_video_latent(picture.convert("RGBA"), None, 9, (32, 48))[0].shape[1] == 4
    with pytest.raises(RuntimeError, match="permute"):
        get_image_to_video_latent(picture.convert("L"), None, 9, (32, 48))

    grey = Image.new("L", (48, 32)).tobytes()
    assert IMAGE_TO_VIDEO.start is not None
    with pytest.raises(ValueError, match="1536 bytes for a picture of 32x48 RGB pixels"):
        engine_of(make_modules()).begin(replace(IMAGE_TO_VIDEO, start=replace(IMAGE_TO_VIDEO.start, rgb=grey)))


def test_every_step_reads_its_timestep_back_from_the_device() -> None:
    """Stock: ``torch.tensor([t])`` reads a value of the device, so the host waits until all steps before are done."""
    stock, ours = shared_pipeline(), engine_of(make_modules())
    with ReadsOfTheHost() as few:
        reference(stock, make_job(steps=2))
    with ReadsOfTheHost() as many:
        reference(stock, make_job(steps=5))
    assert many.count - few.count >= 3

    sampling = ours.begin(make_job(steps=5))
    with ReadsOfTheHost() as none:
        while not sampling.done:
            ours.step(sampling)
    assert none.count == 0


def test_prompts_are_cut_in_silence() -> None:
    """Stock: what is said beyond 256 tokens makes no difference, and nobody is told."""
    cut, also_cut = "snow " * 100 + "and a cat", "snow " * 100 + "and a dog"
    embeddings = [
        shared_pipeline().encode_prompt(text, do_classifier_free_guidance=False)[0] for text in (cut, also_cut)
    ]
    assert torch.equal(*embeddings)

    front = prompt_tokenizer(make_modules())
    counted = make_modules().tokenizer(front.prefix + cut + front.suffix).input_ids
    assert len(counted) > front.max_tokens


def test_prompts_are_encoded_again_in_every_call() -> None:
    """Stock: also the negative prompt, which seldom changes, and through layers whose output is not used."""
    stock, modules = make_pipeline(), make_modules()
    with breaking(stock.text_encoder, after=100) as encoded:
        for seed in range(2):
            reference(stock, make_job(steps=1, seed=seed))
    assert encoded.calls == 4

    ours = engine_of(modules)
    with breaking(modules.text_encoder, after=100) as encoded:
        for seed in range(2):
            ours.begin(make_job(seed=seed))
    assert encoded.calls == 2
    for part in ("lm_head", "visual", "layers.2."):
        assert any(part in name for name, _ in stock.text_encoder.named_parameters())
        assert not any(part in name for name, _ in modules.text_encoder.named_parameters())


def test_a_vae_that_was_not_read_from_a_published_folder_lacks_a_key() -> None:
    """Stock: the pipeline reads ``cache_mag_vae``, which the VAE's own class does not know."""
    stock, modules = make_pipeline(), make_modules()
    expected = run(engine_of(make_modules()), IMAGE_TO_VIDEO).latents
    for owner in (stock, modules):
        config = {name: value for name, value in owner.vae.config.items() if name != "cache_mag_vae"}
        bare = AutoencoderKLMagvit.from_config(config)
        bare.load_state_dict(owner.vae.state_dict())
        owner.vae = bare.eval().requires_grad_(False)
    with pytest.raises(AttributeError, match="cache_mag_vae"):
        reference(stock, IMAGE_TO_VIDEO)

    assert torch.equal(run(engine_of(modules), IMAGE_TO_VIDEO).latents, expected)


class ReadsOfTheHost(TorchFunctionMode):
    """Counts calls that take values from a tensor to Python, for which a GPU would have to be waited for."""

    READS = (Tensor.item, Tensor.tolist, Tensor.cpu, Tensor.numpy, Tensor.nonzero, Tensor.__bool__, Tensor.__float__)

    count = 0

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        copied = (
            func is torch.tensor and isinstance(args[0], list) and any(isinstance(value, Tensor) for value in args[0])
        )
        self.count += copied or func in self.READS
        return func(*args, **(kwargs or {}))
