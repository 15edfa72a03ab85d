"""What happens where the device's memory runs out: everything is given back, and once more in a leaner placement."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from easyanim_server.domain.errors import OutOfDeviceMemory
from easyanim_server.engine.devices import device_name
from easyanim_server.engine.memory.placement import Placement

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Frames = NDArray[np.uint8]


class OomRetry:
    """Does work that leaves no trace where it fails, twice where memory ran out.

    Args:
        placement: Made leaner before the second try, if it can be.
        device: Where the work runs.
    """

    def __init__(self, placement: Placement, device: torch.device) -> None:
        self._granted = True
        self._placement = placement
        self._device = device

    @contextmanager
    def withheld(self) -> Iterator[None]:
        """Let the first shortage be final meanwhile."""
        before, self._granted = self._granted, False
        try:
            yield
        finally:
            self._granted = before

    def __call__(self, work: Callable[[], Result]) -> Result:
        """Do it.

        Raises:
            OutOfDeviceMemory: the leanest placement was not lean enough.
        """
        try:
            with shortage_named(self._device):
                return work()
        except OutOfDeviceMemory as error:
            if not self._made_leaner(error):
                raise
        with shortage_named(self._device):
            return work()

    def frames(self, decode: Callable[[], Iterator[Frames]]) -> Generator[Frames, None, None]:
        """Yield groups of frames, (n, height, width, 3) each; a second try begins where the first one ended.

        Args:
            decode: Yields the same frames, in the same order, every time.

        Raises:
            OutOfDeviceMemory: the leanest placement was not lean enough.
        """
        done = 0
        try:
            with shortage_named(self._device):
                for frames in decode():
                    yield frames
                    done += len(frames)
            return
        except OutOfDeviceMemory as error:
            if not self._made_leaner(error):
                raise
        with shortage_named(self._device):
            for frames in decode():
                seen, done = min(done, len(frames)), max(0, done - len(frames))
                if seen < len(frames) or not len(frames):
                    yield frames[seen:]

    def _made_leaner(self, error: OutOfDeviceMemory) -> bool:
        before = self._placement.name
        if not self._granted or not self._placement.make_leaner():
            return False
        log.warning("%s; in %s once more, instead of %s", error, self._placement.name, before)
        return True


@contextmanager
def shortage_named(device: torch.device) -> Iterator[None]:
    """Give back what a failed call holds of the device's memory, and raise its shortage by our name."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        traceback.clear_frames(error.__traceback__)  # the traceback keeps their tensors alive
        if device.type == "cuda":
            torch.cuda.empty_cache()
        raise OutOfDeviceMemory(f"{device_name(device)} has too little free memory for this generation") from error
