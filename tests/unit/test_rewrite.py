"""Safetensors files that are written again under other names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from easyanim_server.domain.errors import UnsupportedModel
from easyanim_server.engine.weights.read import files_of
from easyanim_server.engine.weights.rewrite import rewrite

TENSORS = {
    "a.bytes": torch.arange(3, dtype=torch.uint8),
    "b.halves": torch.randn(5, 7, dtype=torch.bfloat16),
    "c.wide": torch.randn(11, dtype=torch.float64),
    "d.empty": torch.zeros(0, 4),
    "e.scalar": torch.tensor(2.5),
}


def renamed(name: str) -> str | None:
    return None if name == "c.wide" else f"new.{name}"


@pytest.mark.parametrize(("most", "count"), [(10**9, 1), (60, 3)])
def test_tensors_keep_their_bits_under_new_names(tmp_path: Path, most: int, count: int) -> None:
    first, second = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    save_file({name: TENSORS[name] for name in ("a.bytes", "c.wide")}, first)
    save_file({name: TENSORS[name] for name in ("b.halves", "d.empty", "e.scalar")}, second)
    target = tmp_path / "written"
    target.mkdir()

    rewrite([first, second], target, "model", renamed, most)

    files = sorted(target.glob("*.safetensors"))
    assert [file.name for file in files] == files_of(target, "model")
    assert len(files) == count
    read = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert read.keys() == {"new.a.bytes", "new.b.halves", "new.d.empty", "new.e.scalar"}
    for name, tensor in read.items():
        assert tensor.dtype is TENSORS[name.removeprefix("new.")].dtype
        assert torch.equal(tensor, TENSORS[name.removeprefix("new.")])
    if count > 1:
        index = json.loads((target / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in read.values())
        assert set(index["weight_map"].values()) == {file.name for file in files}


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_text("<html>")

    with pytest.raises(UnsupportedModel, match="is a web page"):
        rewrite([tmp_path / "x.safetensors"], tmp_path, "model", renamed, 10**9)
