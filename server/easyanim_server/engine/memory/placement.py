"""Where the networks' weights are while nothing is done with them, and how they come to the device when something is.

Every placement gives the same bits: the same kernels read the same numbers, from other addresses.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor, nn

from easyanim_server.domain.placement import Movement, WeightPlacement
from easyanim_server.engine.families.runtime import DENOISER, Component, Unit
from easyanim_server.engine.memory.host_buffer import HostBuffer, PageLocks
from easyanim_server.engine.memory.prefetch import AHEAD, Prefetch

log = logging.getLogger(__name__)

_ALL = "all components"

LEANEST = WeightPlacement.GROUP
"""What a generation is tried again in when its own placement has run out of memory."""


class Placement:
    """Brings each network to the device when it is needed, and says where everything is.

    `full` leaves all networks on the device. `model_cpu_offload` keeps them on the host, and on the device the one
    that is needed: transformer or VAE as a whole, the text encoder layer by layer. `group_offload` does the same with
    the transformer's blocks, whose copies run ahead of the computing. `sequential_cpu_offload` copies the tensors of a
    layer or block when it is its turn, as accelerate does: the layers inside our blocks are not called one by one, so
    its hooks cannot.

    Nothing here is a hook on what is compiled: weights keep their identity and only point elsewhere, so nothing is
    compiled again. Latents, embeddings and whatever else belongs to a generation stay on the device all along.

    Args:
        placement: Where weights are; for all but ``full``, components are best on the host.
        components: All networks. Their weights are to be moved by this object alone.
        device: Where they are needed.
        locked_limit: Most bytes of host memory to lock into place; beyond it, copies are slower.
    """

    def __init__(
        self,
        placement: WeightPlacement,
        components: Mapping[str, Component],
        device: torch.device,
        locked_limit: int = 0,
    ) -> None:
        self.device = device
        self.current = placement
        """The placement in use."""
        self._configured = placement
        self._components = components
        self._locks = PageLocks(locked_limit)
        self._parts: dict[str, _Network] = {}
        self._here: str | None = _ALL
        if placement.starts_on_host:
            self._pack()

    @property
    def name(self) -> str:
        """Of the placement in use."""
        return str(self.current)

    @property
    def host_bytes(self) -> int:
        """Bytes of host memory that hold weights."""
        return sum(part.nbytes for part in self._parts.values())

    @property
    def locked_bytes(self) -> int:
        """Bytes of it that are locked into place."""
        return self._locks.locked

    def need(self, part: str) -> None:
        """Have a component's weights on the device, or streaming through it, for what comes next.

        Raises:
            torch.OutOfMemoryError: there is no room for them; nothing of them stays there.
        """
        if self._here in (part, _ALL):
            return
        self.leave()
        how = self.current.movement
        everything = how is Movement.FULL
        try:
            for name, network in self._parts.items():
                if everything:
                    network.bring(how)
                elif name == part:
                    network.bring(LEANEST.movement if network.calls_units and how is Movement.MODEL else how)
        except torch.OutOfMemoryError:
            self.leave()
            raise
        self._here = _ALL if everything else part

    def leave(self) -> None:
        """Give back all the device's memory that weights with a copy on the host take."""
        if not self._parts:
            return
        for network in self._parts.values():
            network.leave()
        self._here = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # other networks need other sizes

    def use(self, placement: WeightPlacement) -> None:
        """Change the placement for good; 8-bit weights stay what they are."""
        self._configured = placement
        self._change(placement)

    def _change(self, placement: WeightPlacement) -> None:
        if placement is self.current:
            return
        self.leave()
        if not self._parts:
            self._pack()
        self.current = placement
        self._lock()

    def make_leaner(self) -> bool:
        """Go over to the leanest fast placement, until `restore`; False where there is none, or no host memory."""
        if self.current.movement in (Movement.GROUP, Movement.SEQUENTIAL):
            return False
        if not self._parts and psutil.virtual_memory().available < sum(_bytes_of(self._networks)):
            return False
        self._change(LEANEST)
        return True

    def restore(self) -> None:
        """Go back to the configured placement."""
        self._change(self._configured)

    @contextmanager
    def streamed(self) -> Iterator[None]:
        """Let weights that are on the host take the least room meanwhile."""
        if not self._parts:
            yield
            return
        before = self.current
        self._change(LEANEST)
        try:
            yield
        finally:
            self._change(before)

    def rebuild(self, convert: Callable[[int], None]) -> None:
        """Let `convert` replace weights of the denoiser's blocks, by number, each while it is on the device."""
        if not self._parts:
            for number in range(len(self._components[DENOISER].units)):
                convert(number)
            return
        self.leave()
        self._parts[DENOISER].rebuild(convert)
        self._lock()

    def offload(self, part: str) -> BlockOffload:
        """What brings the units of a component that are not called by itself."""
        return BlockOffload(self, part)

    def stream(self, part: str) -> Prefetch | None:
        """What a component's units come through now; None where all of them are there."""
        network = self._parts.get(part)
        return network.stream if network else None

    @property
    def _networks(self) -> list[nn.Module]:
        """All that hold weights."""
        found = []
        for component in self._components.values():
            inside = set(component.network.modules())
            found += [component.network, *(item for unit in component.units for item in unit if item not in inside)]
        return found

    def _pack(self) -> None:
        """Move all weights into buffers on the host."""
        self._parts = {name: _Network(component, self.device) for name, component in self._components.items()}
        self._here = None
        self._lock()

    def _lock(self) -> None:
        """Lock what is copied most often first; nothing where little is copied, or as slowly as accelerate does."""
        for part in self._parts.values():  # in the order of the components
            for parcel in part.parcels:
                if self.current.movement in (Movement.FULL, Movement.SEQUENTIAL):
                    self._locks.release(parcel.host)
                else:
                    self._locks.lock(parcel.host)


class BlockOffload:
    """Implements `families.runtime.OffloadSchedule` for one component, whatever the placement is at the time.

    Args:
        placement: Moves the weights.
        part: The component's name.
    """

    def __init__(self, placement: Placement, part: str) -> None:
        self._placement = placement
        self._part = part

    @property
    def joint(self) -> bool:
        """See `OffloadSchedule.joint`."""
        stream = self._placement.stream(self._part)
        return stream is not None and stream.joint

    def ready(self) -> None:
        """See `OffloadSchedule.ready`."""
        self._placement.need(self._part)

    def over(self, units: Sequence[Unit]) -> Iterable[Unit]:
        """See `OffloadSchedule.over`."""
        stream = self._placement.stream(self._part)
        return units if stream is None else stream.over(units)


class _Network:
    """A component in buffers: units that may come one after the other, and the rest, which comes as a whole.

    Args:
        component: Its weights are moved to the host.
        device: Where they are needed.
    """

    def __init__(self, component: Component, device: torch.device) -> None:
        self.calls_units = component.calls_units
        self.units = [HostBuffer(_tensors(*modules)) for modules in component.units]
        """In the order in which they are needed."""
        self.stream: Prefetch | None = None
        """What the units come through now."""
        self._component = component
        self._device = device
        self._table = HostBuffer(_tensors(component.table) if component.table is not None else ())
        apart = [module for modules in component.units for module in modules]
        apart += [] if component.table is None else [component.table]
        of_parts = {id(tensor) for tensor in _tensors(*apart)}
        self._rest = HostBuffer(tensor for tensor in _tensors(component.network) if id(tensor) not in of_parts)
        self._streams = self._make_streams()
        self._disconnect: Callable[[], None] = lambda: None

    def _make_streams(self) -> dict[Movement, Prefetch]:
        if not self.units:
            return {}
        return {
            Movement.GROUP: Prefetch(self.units, self._device, AHEAD),
            Movement.SEQUENTIAL: Prefetch(self.units, self._device, None),
        }

    @property
    def parcels(self) -> Sequence[HostBuffer]:
        return [self._rest, *self.units, self._table]

    @property
    def nbytes(self) -> int:
        return sum(parcel.nbytes for parcel in self.parcels)

    def bring(self, how: Movement) -> None:
        self._rest.bring(self._device)
        stream = self._streams.get(how)
        if stream is None:
            for parcel in (*self.units, self._table):
                parcel.bring(self._device)
            return
        stream.open()
        self.stream = stream
        if self.calls_units:
            self._disconnect = self._attach(stream)

    def leave(self) -> None:
        self._disconnect()
        if self.stream is not None:
            self.stream.close()
        self.stream, self._disconnect = None, lambda: None
        for parcel in self.parcels:
            parcel.go_home()

    def rebuild(self, convert: Callable[[int], None]) -> None:
        for number, modules in enumerate(self._component.units):
            self.units[number].bring(self._device)
            convert(number)
            self.units[number] = HostBuffer(_tensors(*modules))
        self._streams = self._make_streams()

    def _attach(self, stream: Prefetch) -> Callable[[], None]:
        """Let the units be brought when the network calls them; while they stream, the table stays on the host."""
        detach = stream.attach([module for (module,) in self._component.units])
        table, handles = self._component.table, []
        if table is not None:
            weight = next(table.parameters())
            handles = [
                table.register_forward_pre_hook(lambda _, given: (given[0].to(weight.device),)),
                table.register_forward_hook(lambda _, given, embedded: embedded.to(self._device)),
            ]

        def disconnect() -> None:
            detach()
            for handle in handles:
                handle.remove()

        return disconnect


def _tensors(*modules: nn.Module) -> list[Tensor]:
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


def _bytes_of(networks: Sequence[nn.Module]) -> Iterator[int]:
    for tensor in {id(tensor): tensor for network in networks for tensor in _tensors(network)}.values():
        yield tensor.nbytes
