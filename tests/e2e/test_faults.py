"""A fault inside a network costs its own request; the next video is bit-identical to a fresh server's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from easyanim_client import Client, ServerFailed
from easyanim_server.config.settings import Settings
from tests.conftest import encode_picture
from tests.engines import FAULTY
from tests.servers import RunningServer, settings

PICTURE = encode_picture("PNG")


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Servers share what they measured to choose kernels by, for that shows in a video's last bits."""
    folder = tmp_path_factory.mktemp("cache")
    return settings(model="builtin:tiny", buckets="64x96x13", cache_dir=str(folder))


@pytest.fixture(scope="module")
def server(configured: Settings) -> Iterator[RunningServer]:
    with RunningServer(configured, FAULTY) as running:
        yield running


@pytest.fixture(scope="module")
def fresh(configured: Settings) -> dict[str, str]:
    """What a server that never failed makes: from a picture, and from text alone."""
    with RunningServer(configured, FAULTY) as running:
        return videos(running)


def videos(server: RunningServer) -> dict[str, str]:
    with Client(server.address) as api:
        return {
            "text": api.generate("a cat", steps=2, seed=1).result().sha256,
            "picture": api.generate("a cat", steps=2, seed=1, start_image=PICTURE).result().sha256,
        }


@pytest.mark.parametrize(
    "order", ["encoder at call 1", "encoder at call 3", "decoder at call 2", "transformer at call 3"]
)
def test_after_a_fault_the_next_videos_are_those_of_a_fresh_server(
    server: RunningServer, fresh: dict[str, str], order: str
) -> None:
    worker = server.worker.pid
    with Client(server.address) as api, pytest.raises(ServerFailed) as failed:
        api.generate(f"break {order}", steps=2, start_image=PICTURE).result()

    assert failed.value.error_id
    assert videos(server) == fresh
    assert server.worker.pid == worker, "the worker lived on"
