"""Parcels of weights keep their tensors' identity, and a stream hands each over in time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from easyanim_server.engine.memory.host_buffer import ALIGNMENT, HostBuffer, PageLocks
from easyanim_server.engine.memory.prefetch import Prefetch

CPU = torch.device("cpu")


def layers(count: int = 5) -> list[nn.Linear]:
    torch.manual_seed(0)
    made = [nn.Linear(3 + number, 3 + number) for number in range(count)]
    for layer in made:
        layer.requires_grad_(False)
    return made


def parcels(made: list[nn.Linear]) -> list[HostBuffer]:
    return [HostBuffer(layer.parameters()) for layer in made]


def test_a_parcel_keeps_values_types_strides_and_identity() -> None:
    tensors = [
        torch.randn(3, 5),
        torch.randn(2, 8, 2, 4, 4).to(memory_format=torch.channels_last_3d),
        torch.randn(7).to(torch.float8_e4m3fn),
        torch.randn(4, 6).t(),
        torch.tensor(3.0),
        torch.empty(0, 4),
    ]
    before = [(tensor.clone(), tensor.stride()) for tensor in tensors]
    parcel = HostBuffer(tensors)

    for _ in range(2):
        for tensor, (value, stride) in zip(tensors, before, strict=True):
            assert tensor.stride() == stride
            assert torch.equal(tensor.float(), value.float())
        parcel.bring(CPU)
    filled = [tensor for tensor in tensors if tensor.numel()]
    assert all(tensor.data_ptr() % 64 == parcel.host.data_ptr() % 64 for tensor in filled)
    assert all(start % ALIGNMENT == 0 for start, _ in parcel.pieces)


def test_tensors_that_overlap_stay_views_of_one_another() -> None:
    whole = torch.arange(12.0)
    parts = [whole[:4], whole[4:9].view(5), whole.view(3, 4)[:, 1]]
    parcel = HostBuffer([*parts, whole])

    assert parcel.nbytes == ALIGNMENT
    assert len(parcel.pieces) == 1
    whole.data.add_(1)
    assert torch.equal(torch.cat(parts), torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 2, 6, 10]))


def test_going_home_leaves_no_weight_elsewhere() -> None:
    (layer,) = layers(1)
    parcel = HostBuffer(layer.parameters())
    parcel.bring(CPU)
    away = layer.weight.data_ptr()
    parcel.go_home()

    assert layer.weight.data_ptr() != away
    assert layer.weight.untyped_storage().data_ptr() == parcel.host.data_ptr()


@pytest.mark.parametrize("ahead", [0, 1, 2, 4, 9, None])
def test_every_unit_finds_its_own_weights_round_after_round(ahead: int | None) -> None:
    made = layers()
    expected = [layer.weight.clone() for layer in made]
    packed = parcels(made)
    homes = [layer.weight.data_ptr() for layer in made]
    stream = Prefetch(packed, CPU, ahead)
    stream.open()
    for _ in range(3):
        for number, layer in enumerate(stream.over(made)):
            assert layer.weight.data_ptr() != homes[number]
            assert torch.equal(layer.weight, expected[number])
    stream.close()
    assert [layer.weight.data_ptr() for layer in made] == homes


@pytest.mark.parametrize("ahead", [2, None])
@pytest.mark.parametrize("left_at", range(5))
def test_a_round_that_is_left_in_the_middle_does_not_disturb_the_next(left_at: int, ahead: int | None) -> None:
    made = layers()
    expected = [layer.weight.clone() for layer in made]
    stream = Prefetch(parcels(made), CPU, ahead)
    stream.open()
    for number, _ in enumerate(stream.over(made)):
        if number == left_at:
            break
    seen: list[Tensor] = [layer.weight.clone() for layer in stream.over(made)]
    assert all(torch.equal(one, other) for one, other in zip(seen, expected, strict=True))


def test_layers_with_hooks_are_served_when_they_are_called_and_after_one_has_failed() -> None:
    made = [nn.Linear(4, 4) for _ in range(3)]
    for layer in made:
        layer.requires_grad_(False)
    x = torch.ones(4)
    expected = nn.Sequential(*made)(x)
    stream = Prefetch([HostBuffer(layer.parameters()) for layer in made], CPU)
    stream.open()
    detach = stream.attach(made)
    with pytest.raises(RuntimeError):
        made[0](torch.ones(5))
    assert torch.equal(nn.Sequential(*made)(x), expected)
    detach()
    stream.close()
    assert torch.equal(nn.Sequential(*made)(x), expected)


def test_the_ring_is_as_large_as_what_is_in_it_at_once() -> None:
    packed = parcels(layers())
    largest = max(parcel.nbytes for parcel in packed)
    assert Prefetch(packed, CPU, ahead=2).nbytes == 3 * largest
    assert Prefetch(packed, CPU, ahead=9).nbytes == 5 * largest
    assert Prefetch(packed, CPU, ahead=None).nbytes == largest


def test_without_cuda_no_memory_is_locked() -> None:
    locks = PageLocks(2**30)
    if not torch.cuda.is_available():
        assert not locks.lock(torch.empty(8, dtype=torch.uint8))
    assert locks.locked == 0
