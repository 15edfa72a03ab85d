"""What the eager network predicted is found again by a start with the same weights, and by no other."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from easyanim_server.engine.compile.reference_cache import ReferenceCache

CPU = torch.device("cpu")


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5, dtype=torch.bfloat16), nn.LayerNorm(5))


class Configured(nn.Linear):
    """A network of the diffusers library keeps what it was made with."""

    config: dict[str, object]


def test_another_configuration_of_the_same_weights_has_references_of_its_own(tmp_path: Path) -> None:
    network = Configured(6, 5)
    network.config = {"norm_eps": 1e-6, "_name_or_path": "here"}
    made(tmp_path, network)

    network.config = {"norm_eps": 1e-6, "_name_or_path": "there"}
    assert not ReferenceCache(tmp_path, network, "original").missing("here")
    network.config = {"norm_eps": 0.3, "_name_or_path": "here"}
    assert ReferenceCache(tmp_path, network, "original").missing("here")


def forbidden() -> Tensor:
    raise AssertionError("it was computed again")


def made(folder: Path | None, network: nn.Module) -> Tensor:
    kept = ReferenceCache(folder, network, "original")
    assert kept.missing("here")
    reference = kept.get("here", CPU, lambda: torch.arange(6).reshape(2, 3).T.bfloat16())
    kept.save()
    return reference


def test_what_was_computed_is_found_by_the_next_start(tmp_path: Path, network: nn.Module) -> None:
    reference = made(tmp_path / "not there yet", network)

    again = ReferenceCache(tmp_path / "not there yet", network, "original")
    assert not again.missing("here")
    assert again.missing("here", "there")
    found = again.get("here", CPU, forbidden)
    assert found.dtype is torch.bfloat16
    assert torch.equal(found, reference)


@pytest.mark.parametrize("change", ["last bit of a weight", "attention mode", "name", "type"])
def test_other_weights_have_references_of_their_own(tmp_path: Path, network: nn.Sequential, change: str) -> None:
    made(tmp_path, network)
    other, mode = copy.deepcopy(network), "original"
    match change:
        case "last bit of a weight":
            other[0].get_parameter("weight").data.view(torch.int16)[3, 4] ^= 1
        case "attention mode":
            mode = "diffusers"
        case "name":
            other = nn.Sequential(other[0], nn.Identity(), other[1])
        case _:
            other = other.float()

    assert ReferenceCache(tmp_path, other, mode).missing("here")
    assert not ReferenceCache(tmp_path, network, "original").missing("here")


def test_a_file_that_was_cut_off_is_made_again(
    tmp_path: Path, network: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    made(tmp_path, network)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-4])

    made(tmp_path, network)

    assert "cannot be read and is made again" in caplog.text
    assert not ReferenceCache(tmp_path, network, "original").missing("here")


def test_a_folder_that_takes_no_files_costs_a_warning_only(
    tmp_path: Path, network: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "occupied").write_text("a file where the folder should be")

    made(tmp_path / "occupied", network)

    assert "cannot be written" in caplog.text


def test_without_a_cache_nothing_is_kept(network: nn.Module) -> None:
    made(None, network)
    assert ReferenceCache(None, network, "original").missing("here")
