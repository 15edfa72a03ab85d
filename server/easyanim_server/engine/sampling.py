"""One generation between two denoising steps: plain tensors by name, numbers and text."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from easyanim_server.domain.events import Work
from easyanim_server.domain.job import Bucket
from easyanim_server.domain.profiles import NO_ACCELERATION, Acceleration
from easyanim_server.domain.profiles import Solver as SolverName
from easyanim_server.engine.families.runtime import Condition, NetworkInputs
from easyanim_server.engine.solvers.base import Prediction, Schedule, SolverState
from easyanim_server.engine.step_cache.teacache import StepCache

PROMPT, NEGATIVE_PROMPT = "prompt", "negative_prompt"
"""Names of conditions."""


@dataclass(slots=True, eq=False)
class Sampling:
    """A generation's whole state. It shares nothing that is written to with any other."""

    latents: Tensor
    """(1, channels, frames', height', width'), in the model's dtype, on its device; replaced by each step."""
    conditions: Mapping[str, Condition]
    """Embeddings of the prompt and, where guidance is on, of the negative prompt."""
    inputs: Mapping[str, Tensor]
    """What else the network reads, by the family's names."""
    bucket: Bucket
    """Its shape; decides how the blocks run."""
    guidance: float
    """Weight of the prompt against the negative prompt; off at 1."""
    seed: int
    """What its noise was drawn from."""
    schedule: Schedule
    """The noise level of each step."""
    solver_state: SolverState
    """What the solver knows, by its own names."""
    acceleration: Acceleration = NO_ACCELERATION
    """Which steps have guidance, and how they are taken."""
    index: int = 0
    """Steps taken."""
    cache: StepCache | None = None
    """What steps may reuse; None where they may not."""
    predictions: int = 0
    """Passes through the transformer's blocks so far."""
    reused: int = 0
    """Steps so far that reused their predictions."""
    guidance_rescale: float = 0.0
    """How far guidance is brought back to the spread of the prompt's prediction, in [0, 1]."""

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.schedule.steps

    @property
    def done(self) -> bool:
        """Whether all steps are taken."""
        return self.index == self.steps

    @property
    def guided(self) -> bool:
        """Whether the next step has guidance."""
        return NEGATIVE_PROMPT in self.conditions and self.acceleration.guides(self.index, self.steps)

    @property
    def prompts(self) -> list[Condition]:
        """Conditions in the order in which guidance takes them."""
        return [self.conditions[name] for name in (PROMPT, NEGATIVE_PROMPT) if name in self.conditions]

    @property
    def work(self) -> Work:
        """What the steps took so far."""
        return Work(self.predictions, self.reused, self.cache.coefficients if self.cache else ())

    def network_inputs(self) -> NetworkInputs:
        """What the network reads at the next step."""
        return NetworkInputs(self.latents, self.schedule.timesteps[self.index, None], self.inputs)

    def inputs_before(self, latents: Tensor) -> NetworkInputs:
        """What the network read at the step before, which began with `latents`."""
        return NetworkInputs(latents, self.schedule.timesteps[self.index - 1, None], self.inputs)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under names with dots; those of a whole are views or the originals."""
        found = {"latents": self.latents, "schedule.sigmas": self.schedule.sigmas}
        found["schedule.timesteps"] = self.schedule.timesteps
        optional = {"schedule.scales": self.schedule.scales, "schedule.ends": self.schedule.ends}
        found |= {name: tensor for name, tensor in optional.items() if tensor is not None}
        for prompt, condition in self.conditions.items():
            found |= {f"conditions.{prompt}.{name}": tensor for name, tensor in condition.items()}
        found |= {f"inputs.{name}": tensor for name, tensor in self.inputs.items()}
        found |= {f"solver.{name}": tensor for name, tensor in self.solver_state.items()}
        if self.cache is not None:
            found |= {f"step_cache.{name}": tensor for name, tensor in self.cache.tensors().items()}
        return found

    def facts(self) -> dict[str, Any]:
        """Everything that is no tensor, of JSON's types."""
        return {
            "bucket": dataclasses.asdict(self.bucket),
            "guidance": self.guidance,
            "guidance_rescale": self.guidance_rescale,
            "seed": self.seed,
            "prediction": self.schedule.prediction.value,
            "data_bound": self.schedule.data_bound,
            "acceleration": {**dataclasses.asdict(self.acceleration), "solver": self.acceleration.solver.value},
            "index": self.index,
            "predictions": self.predictions,
            "reused": self.reused,
            "step_cache": None if self.cache is None else self.cache.facts(),
        }

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Sampling:
        """The reverse of `tensors` and `facts`; goes on where that one stood, on the tensors' devices.

        Raises:
            KeyError: something is missing.
            ValueError: a value is not one that `facts` gives.
        """
        conditions = _below("conditions", tensors)
        acceleration = facts["acceleration"]
        schedule = _below("schedule", tensors)
        cache = facts["step_cache"]
        return cls(
            latents=tensors["latents"],
            conditions={
                name: _below(name, conditions) for name in (PROMPT, NEGATIVE_PROMPT) if _below(name, conditions)
            },
            inputs=_below("inputs", tensors),
            bucket=Bucket(**facts["bucket"]),
            guidance=facts["guidance"],
            guidance_rescale=facts.get("guidance_rescale", 0.0),  # older snapshots have none
            seed=facts["seed"],
            schedule=Schedule(
                **schedule, prediction=Prediction(facts["prediction"]), data_bound=facts.get("data_bound")
            ),
            solver_state=_below("solver", tensors),
            acceleration=Acceleration(**{**acceleration, "solver": SolverName(acceleration["solver"])}),
            index=facts["index"],
            cache=None if cache is None else StepCache.of(_below("step_cache", tensors), cache),
            predictions=facts["predictions"],
            reused=facts["reused"],
        )

    def fingerprint(self) -> str:
        """SHA-256 of the latents' type, shape and bytes (row-major, as the host stores them), hex."""
        latents = self.latents.detach().cpu().contiguous()
        digest = hashlib.sha256(f"{latents.dtype} {tuple(latents.shape)} ".encode())
        digest.update(latents.view(torch.uint8).numpy().data)  # bytes: numpy has no bfloat16
        return digest.hexdigest()


def _below(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin with `name` and a dot, without that."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
