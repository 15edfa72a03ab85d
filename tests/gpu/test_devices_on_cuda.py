"""What the front reads of a real device through NVML."""

from __future__ import annotations

import pytest
import torch

from easyanim_server.catalog import EASYANIMATE_V51
from easyanim_server.domain.model import ModelInfo, PromptTokenizer, WorkerInfo
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.weights import checkpoint
from easyanim_server.telemetry.devices import Devices

pytestmark = pytest.mark.gpu


def test_the_devices_that_an_engine_names_are_those_that_the_driver_reports() -> None:
    engine = Engine(
        EasyAnimatePipeline(checkpoint.load("builtin:tiny", device=torch.device("cuda"), dtype=torch.bfloat16))
    )
    devices = Devices()
    model = ModelInfo("builtin:tiny", "0", 0, "original", "bfloat16", "cuda")
    devices.worker_ready(
        WorkerInfo(
            model, PromptTokenizer("", "", "", 256), device_uuids=engine.device_uuids, capabilities=EASYANIMATE_V51
        )
    )

    (before,) = devices.read()
    assert before.name == torch.cuda.get_device_name()
    assert before.memory_total == pytest.approx(torch.cuda.get_device_properties(0).total_memory, rel=0.1)
    assert 0 <= before.utilization <= 1
    held = torch.empty(2 * 2**30, dtype=torch.uint8, device="cuda")
    (after,) = devices.read()
    assert after.memory_used - before.memory_used > 0.9 * held.numel()
