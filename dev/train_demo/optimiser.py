"""Muon for weights that act as matrices, AdamW for all others."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MUON_RATE = 20.0
"""Muon's learning rate in AdamW's: its updates have the norm of the rate itself, whatever the gradient."""

MOMENTUM, DECAY = 0.95, 0.01
"""Muon's."""

_ITERATIONS, _A, _B, _C = 5, 3.4445, -4.7750, 2.0315
"""Of Newton and Schulz, as published."""


class MuonAdamW:
    """Both optimisers as one. Convolutions are matrices from all they read to their output channels.

    Args:
        parameters: All that are trained.
        matrices: Those of them that Muon takes; they have two dimensions or more.
        rate: Peak learning rate of AdamW.
        decay: Weight decay of AdamW.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], matrices: list[nn.Parameter], rate: float, decay: float
    ) -> None:
        taken = {id(parameter) for parameter in matrices}
        others = [parameter for parameter in parameters if id(parameter) not in taken]
        self._rate = rate
        self._muon = Muon(matrices, MUON_RATE * rate)
        on_gpu = any(parameter.is_cuda for parameter in others)
        self._adamw = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.99), weight_decay=decay, fused=on_gpu)

    @property
    def state(self) -> Any:
        """AdamW's, by parameter; Muon's momentum builds up anew in some twenty steps."""
        return self._adamw.state

    def set_rate(self, share: float) -> float:
        """Set both learning rates to a share of their peaks; returns AdamW's."""
        self._muon.rate = MUON_RATE * self._rate * share
        for group in self._adamw.param_groups:
            group["lr"] = self._rate * share
        return self._rate * share

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self._adamw.zero_grad(set_to_none=True)
        self._muon.zero_grad()

    def step(self) -> None:
        """Change the weights by their gradients."""
        self._muon.step()
        self._adamw.step()


class Muon:
    """`torch.optim.Muon`, number for number, with all matrices of one shape in one product.

    That one launches a thousand small kernels a step, for which a GPU waits.

    Args:
        weights: Of two dimensions or more.
        rate: Learning rate.
    """

    def __init__(self, weights: list[nn.Parameter], rate: float) -> None:
        self.rate = rate
        self._weights = weights
        self._groups: dict[tuple[int, int], list[nn.Parameter]] = {}
        for weight in weights:
            rows, columns = _as_matrix(weight.data, weight).shape
            self._groups.setdefault((rows, columns), []).append(weight)
        self._momenta = {
            (rows, columns): torch.zeros(len(group), rows, columns, device=group[0].device)
            for (rows, columns), group in self._groups.items()
        }

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for weight in self._weights:
            weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change the weights by their gradients; every weight must have one."""
        for shape, group in self._groups.items():
            gradients = torch.stack([_as_matrix(_gradient(weight), weight) for weight in group])
            momentum = self._momenta[shape]
            momentum.lerp_(gradients, 1 - MOMENTUM)
            updates = _orthogonal(gradients.lerp(momentum, MOMENTUM))
            matrices = [_as_matrix(weight.data, weight) for weight in group]
            torch._foreach_mul_(matrices, 1 - self.rate * DECAY)
            scale = self.rate * math.sqrt(max(1.0, shape[0] / shape[1]))
            torch._foreach_add_(matrices, list(updates.to(matrices[0].dtype).unbind(0)), alpha=-scale)


def _gradient(weight: nn.Parameter) -> Tensor:
    if weight.grad is None:
        raise ValueError(f"a weight of shape {tuple(weight.shape)} has no gradient")
    return weight.grad


def _orthogonal(updates: Tensor) -> Tensor:
    """Matrices (n, rows, columns) with about the same singular vectors, and singular values of about 1, in bfloat16."""
    tall = updates.shape[1] > updates.shape[2]
    x = updates.bfloat16()
    if tall:
        x = x.mT
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7).view(-1, 1, 1)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.mT if tall else x


def _as_matrix(values: Tensor, weight: Tensor) -> Tensor:
    """(out, ...) as (out, all others), in the order in memory of `weight`, of which it is a view."""
    if not weight.is_contiguous():  # channels last
        values = values.permute(0, 2, 3, 4, 1)
    return values.flatten(1)
