"""One whole video in diffusers' own pipeline, as its documentation calls it: what ours are compared with."""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from diffusers import EasyAnimateInpaintPipeline
from diffusers.pipelines.easyanimate.pipeline_easyanimate_inpaint import get_image_to_video_latent
from PIL import Image

from easyanim_server.domain.job import DEFAULT_GUIDANCE, Bucket
from easyanim_server.engine.families.easyanimate_v51 import builtin
from easyanim_server.engine.families.easyanimate_v51.text import MAX_TOKENS
from easyanim_server.engine.weights import checkpoint


def generation(model: str, device: torch.device, bucket: Bucket, steps: int, picture: Path) -> dict[str, Any]:
    """Time the second of two videos, in a process of its own, which gives its memory back.

    The prompts' embeddings are given, so that no text encoder is needed: their share of the time is left out.

    Args:
        model: As `checkpoint.load` takes it.
        device: Where it runs; weights are in bfloat16 on a GPU and in float32 on the CPU.
        bucket: The video's shape.
        steps: Of denoising, with guidance.
        picture: The start picture.

    Returns:
        A row of results, whose seconds are from the call to frames in host memory.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_generation, model, device, bucket, steps, picture).result()


def _generation(model: str, device: torch.device, bucket: Bucket, steps: int, picture: Path) -> dict[str, Any]:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if model in builtin.SYNTHETIC:
        modules = builtin.synthetic(builtin.SYNTHETIC[model], device=device, dtype=dtype, text_layers=0)
    else:
        modules = checkpoint.load(model, device=device, dtype=dtype)
    pipeline = EasyAnimateInpaintPipeline(
        vae=modules.vae, text_encoder=None, tokenizer=modules.tokenizer, transformer=modules.transformer,
        scheduler=modules.scheduler,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    size = (bucket.height, bucket.width)
    with Image.open(picture) as image:
        video, mask = get_image_to_video_latent(image.convert("RGB").resize(size[::-1]), None, bucket.frames, size)
    generator = torch.Generator().manual_seed(0)
    shape = (1, MAX_TOKENS, modules.transformer.config.text_embed_dim)
    texts = [torch.randn(shape, generator=generator).to(device, dtype) for _ in range(2)]
    seen = torch.ones(1, MAX_TOKENS, device=device, dtype=dtype)
    seconds = 0.0
    for count in (1, steps):  # the first loads kernels
        noise = torch.Generator(device).manual_seed(0)
        began = time.perf_counter()
        pipeline(
            num_frames=bucket.frames, video=video, mask_video=mask, height=bucket.height, width=bucket.width,
            num_inference_steps=count, guidance_scale=DEFAULT_GUIDANCE, generator=noise,
            prompt_embeds=texts[0], negative_prompt_embeds=texts[1], prompt_attention_mask=seen,
            negative_prompt_attention_mask=seen, output_type="np",
        )  # fmt: skip
        seconds = time.perf_counter() - began
    return {
        "what": "generation", "model": model, "backend": "diffusers", "bucket": f"{bucket.height}x{bucket.width}",
        "frames": bucket.frames, "steps": steps, "predictions": 2 * steps, "seconds": round(seconds, 3),
    }  # fmt: skip
