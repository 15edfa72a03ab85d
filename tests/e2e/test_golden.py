"""Videos and receipts stay what they were recorded as, whatever is moved in the code."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest

from tests import golden

pytestmark = pytest.mark.long

RECORDED: dict[str, Any] = json.loads(golden.FILE.read_text(encoding="utf-8"))
MACHINE_DEPENDENT = ("latents_sha256",)
LEVELS = 3
"""Of 255, that a mean of a frame's part may differ by on another processor."""


@pytest.fixture(scope="module")
def rendered() -> dict[str, tuple[bytes, dict[str, Any]]]:
    return {name: (data, receipt) for name, data, receipt in golden.render()}


@pytest.mark.parametrize("name", golden.REQUESTS)
def test_a_request_gives_what_it_gave(name: str, rendered: dict[str, tuple[bytes, dict[str, Any]]]) -> None:
    data, receipt = rendered[name]
    expected = RECORDED["requests"][name]

    if golden.machine() == RECORDED["machine"]:
        assert receipt == expected["receipt"]
        assert hashlib.sha256(data).hexdigest() == expected["sha256"]
    for key in MACHINE_DEPENDENT:
        receipt.pop(key), expected["receipt"].pop(key)
    assert receipt == expected["receipt"]
    thumbnails = golden.thumbnails(data).astype(int)
    assert np.abs(thumbnails - golden.unpacked(expected["thumbnails"])).max() <= LEVELS
