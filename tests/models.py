"""Tiny models for the engine's tests: stock pipelines as references, engines with the same weights, and faults."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import EasyAnimateInpaintPipeline
from diffusers.pipelines.easyanimate.pipeline_easyanimate_inpaint import get_image_to_video_latent
from PIL import Image
from torch import Tensor, nn

from easyanim_server.domain.job import Bucket, Job, Picture
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.base import never
from easyanim_server.engine.families.easyanimate_v51 import builtin
from easyanim_server.engine.families.easyanimate_v51.block import AttentionMode
from easyanim_server.engine.families.easyanimate_v51.components import Components
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.families.easyanimate_v51.qwen import TrimmedTextEncoder
from easyanim_server.engine.sampling import Sampling


def make_pipeline(num_layers: int = 4, mmdit_layers: int = 2) -> EasyAnimateInpaintPipeline:
    """A stock pipeline of one's own, to break or to change."""
    pipeline = builtin.tiny(
        device=torch.device("cpu"), dtype=torch.float32, num_layers=num_layers, mmdit_layers=mmdit_layers
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


shared_pipeline = cache(make_pipeline)
"""A stock pipeline that all tests share as the reference. Engines get modules of their own, whose processors change."""


def make_modules(pipeline: EasyAnimateInpaintPipeline | None = None) -> Components:
    """The modules of a pipeline; by default of a new one with the weights of `shared_pipeline()`."""
    pipeline = pipeline or make_pipeline()
    return Components(
        name="builtin:tiny",
        transformer=pipeline.transformer,
        vae=pipeline.vae,
        text_encoder=TrimmedTextEncoder.of(pipeline.text_encoder),
        tokenizer=pipeline.tokenizer,
        scheduler=pipeline.scheduler,
    )


def engine_of(
    modules: Components,
    attention_mode: AttentionMode = "original",
    *,
    tiled: Callable[[int, int], bool] = never,
    **options: Any,
) -> Engine:
    """An engine of loaded networks."""
    return Engine(EasyAnimatePipeline(modules, attention_mode, tiled=tiled), **options)


def make_job(
    prompt: str = "a cat",
    negative_prompt: str = "ugly",
    bucket: str = "32x48x9",
    pictures: int = 1,
    steps: int = 2,
    guidance: float = 6.0,
    seed: int = 0,
) -> Job:
    """A short job with a start picture, or with as many of start and end as `pictures` says."""
    size = Bucket.parse(bucket)
    start, end = (make_picture(size, seed=number) for number in range(2))
    return Job(
        id="1",
        prompt=prompt,
        negative_prompt=negative_prompt,
        bucket=size,
        steps=steps,
        guidance=guidance,
        seed=seed,
        start=start if pictures > 0 else None,
        end=end if pictures > 1 else None,
    )


def make_picture(bucket: Bucket, seed: int = 0) -> Picture:
    """A picture in which neighbouring pixels differ, so that no mistake in layout goes unseen."""
    return Picture(bucket.width, bucket.height, random.Random(seed).randbytes(3 * bucket.width * bucket.height))


def reference(pipeline: EasyAnimateInpaintPipeline, job: Job, **changes: object) -> tuple[Tensor, Tensor]:
    """What a stock pipeline makes of a job: latents after the last step, and frames (n, 3, height, width) in [0, 1].

    `changes` replace arguments of the pipeline.
    """
    size = (job.bucket.height, job.bucket.width)
    video, mask = get_image_to_video_latent(to_pil(job.start), to_pil(job.end), job.bucket.frames, size)
    steps: list[Tensor] = []

    def after_step(_pipeline: object, _index: int, _timestep: object, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(tensors["latents"])
        return {}

    arguments = {
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt,
        "num_frames": job.bucket.frames,
        "video": video,
        "mask_video": mask,
        "height": size[0],
        "width": size[1],
        "num_inference_steps": job.steps,
        "guidance_scale": job.guidance,
        "generator": torch.Generator("cpu").manual_seed(job.seed),
        "output_type": "pt",
        "callback_on_step_end": after_step,
    }
    frames = pipeline(**arguments | changes).frames
    return steps[-1], frames[0]


def to_pil(picture: Picture | None) -> Image.Image | None:
    if picture is None:
        return None
    return Image.frombytes("RGB", (picture.width, picture.height), picture.rgb)


def run(engine: Engine, job: Job) -> Sampling:
    """Take all steps of a job."""
    sampling = engine.begin(job)
    while not sampling.done:
        engine.step(sampling)
    return sampling


class Broken(Exception):
    """What tests let networks and observers fail with."""


@contextmanager
def breaking(module: nn.Module, after: int = 0, error: BaseException | None = None) -> Iterator[SimpleNamespace]:
    """Let `module` fail when it is called once more than `after` times; counts its calls."""
    seen = SimpleNamespace(calls=0)

    def count(*_: object) -> None:
        seen.calls += 1
        if seen.calls > after:
            raise error or Broken

    handle = module.register_forward_pre_hook(count)
    try:
        yield seen
    finally:
        handle.remove()
