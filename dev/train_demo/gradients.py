"""Gradients of a loss; on a GPU computed by a recording, since a small network's launches take longer than its work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

WARM_UP = 3
"""Runs before the recording, in which kernels are compiled and chosen."""


class Gradients:
    """Computes a loss and leaves its gradients, clipped, in the parameters.

    A GPU records the first call as a CUDA graph, and later calls replay it: inputs are copied to where the first were,
    random numbers are drawn anew, and Python has nothing to do. So the computation must not look at values, and
    whatever it takes besides the inputs must stay where it is.

    Args:
        compute: Makes the loss, a scalar, from the inputs; whatever type it computes in, it enters that by itself.
        parameters: What gradients are of. They are added into the same memory at every call, of every instance.
        most: Norm that all gradients together are clipped to.
    """

    def __init__(self, compute: Callable[..., Tensor], parameters: Sequence[nn.Parameter], most: float = 1.0) -> None:
        self._compute, self._parameters, self._most = compute, parameters, most
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._loss = torch.empty(())
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Returns the loss, detached; on a GPU it is overwritten by the next call."""
        if not inputs[0].is_cuda:
            return self._run(*inputs)
        if self._graph is None:
            self._graph = self._record(inputs)
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given)
        self._graph.replay()
        return self._loss

    def _run(self, *inputs: Tensor) -> Tensor:
        torch._foreach_zero_([parameter.grad for parameter in self._parameters if parameter.grad is not None])
        loss = self._compute(*inputs)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, self._most, foreach=True)
        return loss.detach()

    def _record(self, inputs: tuple[Tensor, ...]) -> torch.cuda.CUDAGraph:
        self._inputs = tuple(given.clone() for given in inputs)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._run(*self._inputs)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._loss = self._run(*self._inputs)
        return graph
