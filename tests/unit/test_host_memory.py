"""How much host memory loading takes: measured in processes of their own, on a folder of some hundred megabytes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from easyanim_server.engine.families.easyanimate_v51 import builtin, export
from easyanim_server.engine.families.easyanimate_v51.components import Components
from easyanim_server.engine.families.easyanimate_v51.family import EasyAnimateV51
from easyanim_server.engine.weights import checkpoint
from easyanim_server.engine.weights.original import is_original, original_name
from easyanim_server.engine.weights.read import stored_names
from easyanim_server.engine.weights.rewrite import rewrite

pytestmark = pytest.mark.long

CPU = torch.device("cpu")
MIB = 2**20

SCRIPT = """
import json, sys, torch
from easyanim_server.benchmark import stopwatch as measure
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.weights import checkpoint, read
read.PORTION = 40_000_000
checkpoint.load("builtin:tiny", device=torch.device("cpu"), dtype=torch.bfloat16)  # the libraries, once
before, host = measure.HostPeak().nbytes, measure.HostPeak()
modules = checkpoint.load(sys.argv[1], device=torch.device("cpu"), dtype=torch.bfloat16, on_host=sys.argv[2] != "full")
Engine(EasyAnimatePipeline(modules), placement=sys.argv[2])
print(json.dumps({"peak": host.nbytes - before}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of published kind, with a 280 MB transformer, written in shards as a full-size one is."""
    narrow = {"num_attention_heads": 16, "num_layers": 6, "mmdit_layers": 2, "text_embed_dim": 512}
    text = {
        "hidden_size": 512, "num_hidden_layers": 9, "num_attention_heads": 4, "num_key_value_heads": 4,
        "intermediate_size": 2048, "vocab_size": 320,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }  # fmt: skip
    place = tmp_path_factory.mktemp("medium") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(builtin.PUBLISHED_TRANSFORMERS, "7b", builtin.PUBLISHED_TRANSFORMERS["7b"] | narrow)
        patch.setattr(builtin, "PUBLISHED_TEXT", builtin.PUBLISHED_TEXT | text)
        patch.setattr(builtin, "PUBLISHED_VAE", {"block_out_channels": (16, 32, 32, 32), "norm_num_groups": 8})
        patch.setattr(export, "MAX_SHARD_SIZE", "40MB")
        modules: Components = builtin.synthetic("7b", device=CPU, dtype=torch.bfloat16, text_layers=8)
        export.write(modules, builtin.synthetic_text_config(8), place)
    return place


def sizes(folder: Path) -> dict[str, int]:
    return {part.name: sum(file.stat().st_size for file in part.glob("*.safetensors")) for part in folder.iterdir()}


def loaded(folder: Path, placement: str) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), placement], capture_output=True, text=True, check=True
    )
    facts: dict[str, Any] = json.loads(ran.stdout)
    return facts


def test_a_full_size_folder_is_written_in_shards_and_read_back_bit_by_bit(folder: Path) -> None:
    made = checkpoint.load(str(folder), device=CPU, dtype=torch.bfloat16)
    outline = EasyAnimateV51().networks(checkpoint.find(str(folder)))

    assert len(list((folder / "transformer").glob("*.safetensors"))) > 3
    assert sizes(folder)["transformer"] > 200e6
    for name in ("transformer", "vae", "text_encoder"):
        network = getattr(outline, name)
        assert {tensor.device.type for tensor in network.parameters()} == {"meta"}
        assert {key: tensor.shape for key, tensor in network.state_dict().items()} == {
            key: tensor.shape for key, tensor in getattr(made, name).state_dict().items()
        }
    again = checkpoint.load(str(folder), device=CPU, dtype=torch.bfloat16, on_host=True)
    for one, other in zip(made.transformer.parameters(), again.transformer.parameters(), strict=True):
        assert torch.equal(one, other)


def test_weights_that_wait_on_the_host_are_there_once_beside_one_file_and_one_block(folder: Path) -> None:
    whole = sum(sizes(folder).values())
    assert loaded(folder, "group_offload")["peak"] < whole + 120 * MIB, "and so far below twice as much"


def test_one_large_file_of_the_authors_layout_takes_no_more(folder: Path, tmp_path: Path) -> None:
    whole = sum(sizes(folder).values())
    shutil.copytree(folder, tmp_path / "model", ignore=lambda place, names: names if place.endswith("former") else [])
    files = sorted((folder / "transformer").glob("*.safetensors"))
    rewrite(files, tmp_path / "model/transformer", "diffusion_pytorch_model", original_name, 10**12)
    shutil.copy(folder / "transformer/config.json", tmp_path / "model/transformer")

    assert len(list((tmp_path / "model/transformer").glob("*.safetensors"))) == 1
    assert any(map(is_original, stored_names(tmp_path / "model/transformer", "diffusion_pytorch_model")))
    assert loaded(tmp_path / "model", "group_offload")["peak"] < whole + 120 * MIB
