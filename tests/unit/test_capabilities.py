"""Requests are held against what the model can be asked for, whatever model it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from easyanim.v1 import video_pb2 as pb
from easyanim_server.domain.defaults import ModelDefaults
from easyanim_server.domain.errors import InvalidArgument
from easyanim_server.domain.job import Bucket
from easyanim_server.domain.model import Capabilities, TokenizerSpec
from easyanim_server.domain.shape import Geometry
from easyanim_server.media.picture_pool import PicturePool
from easyanim_server.rpc.from_proto import to_job
from tests.conftest import encode_picture
from tests.servers import settings

BUCKET = Bucket(24, 36, 9)
OTHER = Capabilities(
    family="another",
    tasks=frozenset({"start"}),
    geometry=Geometry(temporal=8, spatial=4, patch=3, latent_channels=6, max_frames=33),
    tokenizers=(TokenizerSpec("bytes", 32),),
    solvers=("euler",),
    defaults=ModelDefaults(steps=11, guidance=3.0, buckets=(BUCKET,), noise_augmentation=0.0),
    max_steps=20,
    guidance_range=(1.0, 4.0),
)
PICTURE = encode_picture("PNG", (36, 24))


@pytest.fixture
async def pool() -> AsyncIterator[PicturePool]:
    pool = PicturePool(1, max_pixels=10**6, max_file_bytes=2**20)
    yield pool
    await pool.close()


async def job(pool: PicturePool, capabilities: Capabilities = OTHER, **fields: Any) -> Any:
    pictures: dict[str, bytes] = {name: fields.pop(name) for name in ("start_image", "end_image") if name in fields}
    request = pb.GenerateRequest(prompt="a cat", **fields)
    async with pool.claim() if pictures else nullcontext() as decoder:
        served = settings(model="some/model", buckets=str(BUCKET))
        return await to_job(request, served, capabilities, pictures, decoder)


async def test_defaults_come_from_the_model(pool: PicturePool) -> None:
    made = await job(pool, start_image=PICTURE)

    assert (made.task, made.bucket, made.steps, made.guidance) == ("start", BUCKET, 11, 3.0)


@pytest.mark.parametrize(
    ("fields", "field", "description"),
    [
        ({}, "start_image", "is missing; the model's tasks are start, and this would be text"),
        (
            {"start_image": PICTURE, "end_image": PICTURE},
            "end_image",
            f"has {len(PICTURE)} bytes; must be left out: the model's tasks are start, and this would be start_end",
        ),
        ({"start_image": PICTURE, "step_count": 21}, "step_count", "is 21; must be from 1 to 20"),
        ({"start_image": PICTURE, "guidance_scale": 4.5}, "guidance_scale", "is 4.5; must be from 1.0 to 4.0"),
        (
            {"start_image": PICTURE, "acceleration": pb.Acceleration(solver="unipc")},
            "acceleration.solver",
            "is 'unipc'; must be one of euler",
        ),
        (
            {"start_image": PICTURE, "frame_count": 13},
            "frame_count",
            "is 13; must be 8k+1, from 1 to 33, and this server offers 9",
        ),
    ],
)
async def test_what_the_model_cannot_do_is_refused(
    pool: PicturePool, fields: dict[str, Any], field: str, description: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await job(pool, **fields)

    assert [(one.field, one.description) for one in refused.value.violations] == [(field, description)]


async def test_a_model_of_text_alone_takes_no_picture(pool: PicturePool) -> None:
    text = replace(OTHER, tasks=frozenset({"text"}))

    assert (await job(pool, text)).task == "text"
    with pytest.raises(InvalidArgument, match=rf"start_image: has {len(PICTURE)} bytes; must be left out"):
        await job(pool, text, start_image=PICTURE)
