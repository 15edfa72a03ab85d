"""Where the networks' weights are while nothing is done with them, and how they come to the device when something is.

Every placement gives the same bits: the same kernels read the same numbers, from other addresses.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import psutil
import torch
from torch import Tensor, nn

from easyanim_server.domain.placement import Movement, WeightPlacement
from easyanim_server.engine.families.easyanimate_v51.components import Components
from easyanim_server.engine.families.easyanimate_v51.qwen import TrimmedTextEncoder
from easyanim_server.engine.families.easyanimate_v51.transformer import Denoiser
from easyanim_server.engine.memory.host_buffer import HostBuffer, PageLocks
from easyanim_server.engine.memory.prefetch import AHEAD, Prefetch

log = logging.getLogger(__name__)

Part = Literal["text", "transformer", "vae"]
"""What is needed at a time."""

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
        placement: Where weights are; for all but ``full``, `modules` are best on the host.
        modules: All networks. Their weights are to be moved by this object alone.
        denoiser: Shares the transformer's weights, and makes its blocks wait for theirs.
        locked_limit: Most bytes of host memory to lock into place; beyond it, copies are slower.
    """

    def __init__(
        self, placement: WeightPlacement, modules: Components, denoiser: Denoiser, locked_limit: int = 0
    ) -> None:
        self.device = modules.device
        self.current = placement
        """The placement in use."""
        self._configured = placement
        self._modules = modules
        self._denoiser = denoiser
        self._locks = PageLocks(locked_limit)
        self._parts: dict[Part, _Network] = {}
        self._here: Part | Literal["all"] | None = "all"
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

    def need(self, part: Part) -> None:
        """Have a network's weights on the device, or streaming through it, for what comes next.

        Raises:
            torch.OutOfMemoryError: there is no room for them; nothing of them stays there.
        """
        if self._here in (part, "all"):
            return
        self.leave()
        how = self.current.movement
        everything = how is Movement.FULL
        try:
            for name, network in self._parts.items():
                if everything:
                    network.bring(how)
                elif name == part:
                    # Read once for a prompt, the text encoder takes as long in one piece as it takes layer by layer.
                    network.bring(LEANEST.movement if part == "text" and how is Movement.MODEL else how)
        except torch.OutOfMemoryError:
            self.leave()
            raise
        self._here = "all" if everything else part

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
        """Let `convert` replace weights of the transformer's blocks, by number, each while it is on the device."""
        if not self._parts:
            for number in range(len(self._denoiser.blocks)):
                convert(number)
            return
        self.leave()
        network = self._parts["transformer"]
        for number in range(len(self._denoiser.blocks)):
            network.units[number].bring(self.device)
            convert(number)
            network.units[number] = HostBuffer(self._block_tensors(number))
        self._parts["transformer"] = self._transformer(network.rest, network.units)
        self._lock()

    @property
    def _networks(self) -> list[nn.Module]:
        return [self._modules.text_encoder, self._modules.transformer, self._modules.vae, self._denoiser.blocks]

    def _pack(self) -> None:
        """Move all weights into parcels on the host."""
        modules, denoiser = self._modules, self._denoiser
        units = [HostBuffer(self._block_tensors(number)) for number in range(len(denoiser.blocks))]
        of_blocks = {id(tensor) for block in modules.transformer.transformer_blocks for tensor in _tensors(block)}
        rest = HostBuffer(tensor for tensor in _tensors(modules.transformer) if id(tensor) not in of_blocks)
        text = modules.text_encoder
        assert isinstance(text, TrimmedTextEncoder)
        self._parts = {
            "text": _TextEncoder(text, self.device),
            "transformer": self._transformer(rest, units),
            "vae": _whole(modules.vae, self.device),
        }
        self._here = None
        self._lock()

    def _transformer(self, rest: HostBuffer, units: list[HostBuffer]) -> _Network:
        def connect(stream: Prefetch) -> Callable[[], None]:
            self._denoiser.arrange, self._denoiser.joint = stream.over, stream.joint

            def disconnect() -> None:
                self._denoiser.arrange = None

            return disconnect

        return _Network(rest, units, self.device, connect)

    def _block_tensors(self, number: int) -> list[Tensor]:
        """Of the block and of the stock one, whose layers are views of it."""
        return [
            *_tensors(self._denoiser.blocks[number]),
            *_tensors(self._modules.transformer.transformer_blocks[number]),
        ]

    def _lock(self) -> None:
        """Lock what is copied most often first; nothing where little is copied, or as slowly as accelerate does."""
        order: tuple[Part, ...] = ("transformer", "text", "vae")
        for part in order:
            for parcel in self._parts[part].parcels:
                if self.current.movement in (Movement.FULL, Movement.SEQUENTIAL):
                    self._locks.release(parcel.host)
                else:
                    self._locks.lock(parcel.host)


class _Network:
    """A network in parcels: units that may come one after the other, and the rest, which comes as a whole.

    Args:
        rest: What is needed all the time.
        units: In the order in which they are needed.
        device: Where they are needed.
        connect: Lets a stream serve the units, and returns what ends that.
    """

    def __init__(
        self,
        rest: HostBuffer,
        units: list[HostBuffer],
        device: torch.device,
        connect: Callable[[Prefetch], Callable[[], None]] | None = None,
    ) -> None:
        self.rest = rest
        self.units = units
        self._device = device
        self._connect = connect
        self._streams: dict[Movement, Prefetch] = {}
        if connect is not None:
            self._streams[Movement.GROUP] = Prefetch(units, device, AHEAD)
            self._streams[Movement.SEQUENTIAL] = Prefetch(units, device, None)
        self._stream: Prefetch | None = None
        self._disconnect: Callable[[], None] = lambda: None

    @property
    def parcels(self) -> Sequence[HostBuffer]:
        return [self.rest, *self.units]

    @property
    def nbytes(self) -> int:
        return sum(parcel.nbytes for parcel in self.parcels)

    def bring(self, how: Movement) -> None:
        self.rest.bring(self._device)
        stream = self._streams.get(how)
        if stream is None or self._connect is None:
            for unit in self.units:
                unit.bring(self._device)
            return
        stream.open()
        self._stream, self._disconnect = stream, self._connect(stream)

    def leave(self) -> None:
        self._disconnect()
        if self._stream is not None:
            self._stream.close()
        self._stream, self._disconnect = None, lambda: None
        for parcel in self.parcels:
            parcel.go_home()


class _TextEncoder(_Network):
    """Qwen2's layers one after the other; while they stream, the table of embeddings stays on the host, a gigabyte."""

    def __init__(self, encoder: TrimmedTextEncoder, device: torch.device) -> None:
        model = encoder.model
        self._table = HostBuffer(_tensors(model.embed_tokens))
        apart = {id(tensor) for module in (model.embed_tokens, model.layers) for tensor in _tensors(module)}
        rest = HostBuffer(tensor for tensor in _tensors(encoder) if id(tensor) not in apart)

        def connect(stream: Prefetch) -> Callable[[], None]:
            detach = stream.attach(list(model.layers))
            table = model.embed_tokens
            handles = (
                table.register_forward_pre_hook(lambda _, given: (given[0].to(table.weight.device),)),
                table.register_forward_hook(lambda _, given, embedded: embedded.to(device)),
            )

            def disconnect() -> None:
                detach()
                for handle in handles:
                    handle.remove()

            return disconnect

        super().__init__(rest, [HostBuffer(_tensors(layer)) for layer in model.layers], device, connect)

    @property
    def parcels(self) -> Sequence[HostBuffer]:
        return [self.rest, *self.units, self._table]

    def bring(self, how: Movement) -> None:
        super().bring(how)
        if how not in self._streams:
            self._table.bring(self._device)


def _whole(network: nn.Module, device: torch.device) -> _Network:
    return _Network(HostBuffer(_tensors(network)), [], device)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _bytes_of(networks: Sequence[nn.Module]) -> Iterator[int]:
    for tensor in {id(tensor): tensor for network in networks for tensor in _tensors(network)}.values():
        yield tensor.nbytes
