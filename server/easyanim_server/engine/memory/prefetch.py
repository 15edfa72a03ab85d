"""Parcels of weights on their way through a device: the next ones arrive while one is computed with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from easyanim_server.engine.memory.host_buffer import HostBuffer

Unit = TypeVar("Unit")

AHEAD = 2
"""Parcels that are on their way while one is computed with; more hide no more of a copy that is slower than that."""


class Prefetch:
    """A ring of device memory that parcels pass in their order, again and again.

    Copies run on a stream of their own. A parcel is sent as soon as its place in the ring is free, over the end of
    the order into its next beginning, so that no round starts with a wait. Leaving a round in the middle is safe:
    the next one starts anew.

    Args:
        parcels: In the order in which they are needed.
        device: Where they are needed. On the CPU copies are made at once, and everything else is the same.
        ahead: Parcels that are under way while one is computed with. None instead copies each tensor by itself when
            it is needed and lets nothing run meanwhile, as sequential offloading does.
    """

    def __init__(self, parcels: Sequence[HostBuffer], device: torch.device, ahead: int | None = AHEAD) -> None:
        self.joint = ahead is not None
        """Whether what computes with a parcel should do all it has to before the next one comes."""
        self._parcels = parcels
        self._device = device
        self._sequential = ahead is None
        self._places = min(1 + (ahead or 0), len(parcels))
        self._ring: list[Tensor] = []
        self._arrived: list[torch.cuda.Event] = []
        self._free: list[torch.cuda.Event] = []
        self._copies: torch.cuda.Stream | None = None
        self._next = self._sent = 0
        """Parcels that were computed with and that were sent, since the beginning of all rounds."""

    @property
    def nbytes(self) -> int:
        """Bytes of the ring."""
        return self._places * max(parcel.nbytes for parcel in self._parcels)

    def open(self) -> None:
        """Allocate the ring.

        Raises:
            torch.OutOfMemoryError: the device has no room for it.
        """
        largest = max(parcel.nbytes for parcel in self._parcels)
        self._ring = [torch.empty(largest, dtype=torch.uint8, device=self._device) for _ in range(self._places)]
        if self._device.type == "cuda":
            self._copies = self._copies or torch.cuda.Stream(self._device)
            self._arrived = [torch.cuda.Event() for _ in self._ring]
            self._free = [torch.cuda.Event() for _ in self._ring]
        self._restart(0)

    def close(self) -> None:
        """Give the ring's memory back; all weights are on the host then."""
        self._restart(0)
        self._ring = []

    def over(self, units: Sequence[Unit]) -> Iterator[Unit]:
        """Yield the units, one for each parcel, each while its weights are there."""
        for number, unit in enumerate(units):
            self.arrive(number)
            yield unit
            self.leave(number)

    def attach(self, layers: Sequence[nn.Module]) -> Callable[[], None]:
        """Let layers, one for each parcel, be served whenever they are called; returns what ends that."""
        handles = []
        for number, layer in enumerate(layers):
            handles.append(layer.register_forward_pre_hook(lambda *_, number=number: self.arrive(number)))
            handles.append(layer.register_forward_hook(lambda *_, number=number: self.leave(number)))

        def detach() -> None:
            for handle in handles:
                handle.remove()

        return detach

    def arrive(self, number: int) -> None:
        """Make a parcel's weights usable for what the device is told next."""
        if number != self._next % len(self._parcels):
            self._restart(number)
        while self._sent < self._next + self._places:
            self._send()
        place = self._next % self._places
        if self._arrived:
            torch.cuda.current_stream(self._device).wait_event(self._arrived[place])
        self._parcels[number].point(self._ring[place])

    def leave(self, number: int) -> None:
        """Give a parcel's place to the next one, once the device has done what it was told."""
        place = self._next % self._places
        if self._free:
            self._free[place].record(torch.cuda.current_stream(self._device))
        self._parcels[number].go_home()
        self._next += 1
        if not self._sequential:
            self._send()

    def _send(self) -> None:
        """Start the copy of the next parcel of all rounds."""
        place = self._sent % self._places
        parcel, memory = self._parcels[self._sent % len(self._parcels)], self._ring[place]
        self._sent += 1
        if self._sequential:
            for start, end in parcel.pieces:
                memory[start:end].copy_(parcel.host[start:end])
            if self._copies is not None:
                torch.cuda.current_stream(self._device).synchronize()
                self._arrived[place].record(torch.cuda.current_stream(self._device))
        elif self._copies is None:
            memory[: parcel.nbytes].copy_(parcel.host)
        else:
            with torch.cuda.stream(self._copies):
                self._copies.wait_event(self._free[place])
                memory[: parcel.nbytes].copy_(parcel.host, non_blocking=True)
                self._arrived[place].record(self._copies)

    def _restart(self, number: int) -> None:
        """Forget what is under way; the next parcel is `number`."""
        if self._copies is not None:
            self._copies.synchronize()
            for event in self._free:  # the ring's memory may be in use by what was told before
                event.record(torch.cuda.current_stream(self._device))
        for parcel in self._parcels:
            parcel.go_home()
        self._next = self._sent = number
