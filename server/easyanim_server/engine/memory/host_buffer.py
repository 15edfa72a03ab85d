"""Weights in one piece of host memory, that a device is handed in one copy."""

from __future__ import annotations

import logging
import mmap
import weakref
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

ALIGNMENT = 512
"""Bytes between starts of tensors, as torch's allocator has it: kernels are chosen by alignment, and so are bits."""


class PageLocks:
    """Locks host memory into place, so that devices copy from it on their own and at full speed, up to a bound.

    Memory is registered where it lies. torch's allocator of pinned memory rounds up to powers of two instead: a
    block of 264 MB would take 512.

    Args:
        limit: Most bytes to lock; 0 locks nothing.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.locked = 0
        """Bytes that are locked now."""
        self._finalizers: dict[int, weakref.finalize[[int, int], Tensor]] = {}

    def lock(self, memory: Tensor) -> bool:
        """Lock a tensor's memory until it is released or the tensor is gone; tells whether it is locked."""
        if memory.data_ptr() in self._finalizers:
            return True
        if not memory.nbytes or not torch.cuda.is_available() or self.locked + memory.nbytes > self.limit:
            return False
        error = int(_cudart().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))
        if error:
            log.warning("%d bytes of host memory stay unlocked: CUDA error %d", memory.nbytes, error)
            with suppress(RuntimeError):  # CUDA goes on reporting it until somebody has asked
                torch.zeros(1, device="cuda")
            return False
        self.locked += memory.nbytes
        finalizer = weakref.finalize(memory, self._unlock, memory.data_ptr(), memory.nbytes)
        finalizer.atexit = False  # the system does it then
        self._finalizers[memory.data_ptr()] = finalizer
        return True

    def release(self, memory: Tensor) -> None:
        """Let the system page a tensor's memory again."""
        if finalize := self._finalizers.get(memory.data_ptr()):
            finalize()

    def _unlock(self, start: int, nbytes: int) -> None:
        del self._finalizers[start]
        self.locked -= nbytes
        _cudart().cudaHostUnregister(start)


@dataclass(frozen=True)
class _Item:
    """A tensor's place in a parcel."""

    tensor: Tensor
    offset: int
    """In elements of its type."""
    size: torch.Size
    stride: tuple[int, ...]


class HostBuffer:
    """Parameters and buffers, moved into one flat piece of host memory, that can be pointed elsewhere and back.

    Tensors keep their identity, type, shape and strides; only what they point at changes. So code that was compiled
    for them stays valid, and going back to the host costs nothing: weights are never written to. Tensors that overlap,
    as layers that are views of a joined weight, go on overlapping.

    Args:
        tensors: On any devices; those without elements stay as they are. Their memory is given up.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        spans = [_Span(tensor) for tensor in {id(tensor): tensor for tensor in tensors}.values() if tensor.numel()]
        spans.sort(key=lambda span: (span.device, span.start, -span.end))
        runs: list[list[_Span]] = []
        for span in spans:
            if runs and span.device == runs[-1][0].device and span.start < max(item.end for item in runs[-1]):
                runs[-1].append(span)
            else:
                runs.append([span])
        starts = [0]
        for run in runs:
            starts.append(-(-(starts[-1] + _length(run)) // ALIGNMENT) * ALIGNMENT)
        self.nbytes = starts[-1]
        """Bytes, gaps included."""
        self.host = _pages(self.nbytes)
        """Where the weights are kept, (nbytes,) uint8."""
        self.pieces = [(start, start + _length(run)) for start, run in zip(starts, runs, strict=False)]
        """Where each tensor, or run of overlapping ones, lies in it."""
        self._items = []
        for run, (start, end) in zip(runs, self.pieces, strict=True):
            self.host[start:end].copy_(_bytes(run[0].tensor, end - start))
            for span in run:
                tensor = span.tensor
                offset = (start + span.start - run[0].start) // tensor.element_size()
                self._items.append(_Item(tensor, offset, tensor.size(), tensor.stride()))
        self.point(self.host)

    def point(self, flat: Tensor) -> None:
        """Let the tensors be views of `flat`, (at least nbytes,) uint8, which holds or will hold what `host` does."""
        storage = flat.untyped_storage()
        for item in self._items:
            view = torch.empty(0, dtype=item.tensor.dtype, device=flat.device)
            item.tensor.data = view.set_(storage, item.offset, item.size, item.stride)

    def go_home(self) -> None:
        """Let the tensors be views of `host`."""
        self.point(self.host)

    def bring(self, device: torch.device) -> None:
        """Copy everything to memory of its own on `device`, in the order of its work, and let the tensors be there."""
        flat = torch.empty(self.nbytes, dtype=torch.uint8, device=device)
        flat.copy_(self.host, non_blocking=True)
        self.point(flat)


class _Span:
    """The bytes that a tensor reaches over."""

    def __init__(self, tensor: Tensor) -> None:
        steps = sum((size - 1) * stride for size, stride in zip(tensor.size(), tensor.stride(), strict=True))
        self.tensor = tensor
        self.device = str(tensor.device)
        self.start = tensor.data_ptr()
        self.end = self.start + (steps + 1) * tensor.element_size()


def _pages(nbytes: int) -> Tensor:
    """Host memory on pages of its own, (nbytes,) uint8: what shares a page cannot be locked by itself."""
    if not nbytes:
        return torch.empty(0, dtype=torch.uint8)
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


def _length(run: list[_Span]) -> int:
    return max(span.end for span in run) - run[0].start


def _bytes(tensor: Tensor, length: int) -> Tensor:
    """The memory from where a tensor starts, (length,) uint8."""
    start = tensor.storage_offset() * tensor.element_size()
    view = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return view.set_(tensor.untyped_storage(), start, (length,), (1,))


def _cudart() -> Any:
    return torch.cuda.cudart()
