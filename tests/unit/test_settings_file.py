"""A settings file that cannot be used is refused with a sentence, whatever is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import ConfigurationError


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"buckets = 5", "buckets=5: must be text or a list"),
        (b"buckets = [5]", "bucket '5' must look like 384x672"),
        (b"listen = 50051", "listen=50051"),
        (b"qeue_size = 3", "unknown setting 'qeue_size'"),
        (b"model = ", "x.toml"),
        (b"model = '\xff'", "x.toml"),
    ],
)
def test_a_wrong_value_or_a_broken_file_is_refused_with_its_name(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError) as refused:
        Settings.load({}, file)
    assert words in str(refused.value)


def test_a_file_that_cannot_be_read_is_refused_with_its_name() -> None:
    file = Path("/proc/self/mem")  # a file that nobody can read from its beginning, root neither
    if not file.is_file():
        pytest.skip("needs Linux")
    with pytest.raises(ConfigurationError, match="/proc/self/mem"):
        Settings.load({}, file)
