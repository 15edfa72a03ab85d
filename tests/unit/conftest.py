"""Tiny models for the engine's tests: stock pipelines as references, and engines with the same weights."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import pytest
import torch
from diffusers import EasyAnimateInpaintPipeline
from diffusers.pipelines.easyanimate.pipeline_easyanimate_inpaint import get_image_to_video_latent
from PIL import Image
from torch import Tensor

from easyanim_server.engine import builtin, checkpoint
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.modules import Modules
from easyanim_server.engine.sampler import Sampling
from easyanim_server.job import Bucket, Job, Picture

CPU = torch.device("cpu")


def noise_picture(seed: int, bucket: Bucket) -> Picture:
    """A picture in which every pixel differs, so that no mistake in layout goes unseen."""
    return Picture(bucket.width, bucket.height, random.Random(seed).randbytes(3 * bucket.width * bucket.height))


def fresh_pipeline(num_layers: int = 4, mmdit_layers: int = 2) -> EasyAnimateInpaintPipeline:
    pipeline = builtin.tiny(device=CPU, dtype=torch.float32, num_layers=num_layers, mmdit_layers=mmdit_layers)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def fresh_modules(num_layers: int = 4, mmdit_layers: int = 2) -> Modules:
    return checkpoint.from_pipeline(fresh_pipeline(num_layers, mmdit_layers), "builtin:tiny")


shared_pipeline = cache(fresh_pipeline)
