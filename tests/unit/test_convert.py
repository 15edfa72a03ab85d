"""Requests become jobs: what that costs the front."""

from __future__ import annotations

import asyncio
import gc

from PIL import Image

from easyanim.v1 import video_pb2 as pb
from easyanim_server.catalog import EASYANIMATE_V51
from easyanim_server.rpc.from_proto import CONVERSIONS, to_job
from tests.conftest import encode_picture
from tests.servers import settings

SIZE = (1500, 1000)


async def test_decoded_pictures_of_many_callers_do_not_pile_up() -> None:
    request = pb.GenerateRequest(prompt="a cat", start_image=encode_picture("PNG", SIZE))
    requests = [asyncio.create_task(to_job(request, settings(), EASYANIMATE_V51)) for _ in range(12)]
    await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
    alive = sum(issubclass(type(item), Image.Image) and item.size == SIZE for item in gc.get_objects())
    await asyncio.gather(*requests)

    assert alive <= 3 * CONVERSIONS, "of 12 callers, so many are served at a time, each with its picture's versions"
