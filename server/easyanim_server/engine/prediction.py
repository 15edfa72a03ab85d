"""One pass through the denoiser: embed, blocks in the order in which their weights come, head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from easyanim_server.engine.families.runtime import (
    Condition,
    Denoiser,
    ExecutionPath,
    NetworkInputs,
    OffloadSchedule,
    Unit,
)


class Resident:
    """The `OffloadSchedule` of weights that stay on the device."""

    joint = False

    def ready(self) -> None:
        """Nothing has to come."""

    def over(self, units: Sequence[Unit]) -> Iterable[Unit]:
        """All units are there."""
        return units


RESIDENT = Resident()


class Predictor:
    """Runs a denoiser with its weights where they are, or as they come.

    Args:
        denoiser: The network.
        offload: Brings its weights.
    """

    def __init__(self, denoiser: Denoiser, offload: OffloadSchedule = RESIDENT) -> None:
        self.denoiser = denoiser
        self._offload = offload

    def predict(
        self,
        inputs: NetworkInputs,
        conditions: Sequence[Condition],
        path: ExecutionPath | None = None,
        residuals: list[Tensor] | None = None,
    ) -> list[Tensor]:
        """Predict for several prompts.

        Where blocks' weights are on their way while others run, each block runs for all prompts before the next one:
        one journey instead of several, for the memory of another sequence of tokens. Otherwise prompts take turns.

        Args:
            inputs: All but the prompts.
            conditions: One for each prediction, with as many text tokens each.
            path: How the blocks run; by default eagerly, with torch's choice of attention.
            residuals: Where it is given, gets what the blocks added to the video's tokens, (batch, video tokens, dim)
                for each prompt.

        Returns:
            For each prompt, of the shape and dtype of the latents.
        """
        self._offload.ready()
        if len(conditions) > 1 and not self._offload.joint:
            return [self.predict(inputs, [condition], path, residuals)[0] for condition in conditions]
        net, path = self.denoiser, path or self.denoiser.eager
        context = net.context(inputs, conditions[0])
        video = net.embed(inputs)
        xs = [net.join(video, condition) for condition in conditions]
        del video

        for block in self._offload.over(path.blocks):
            for number, x in enumerate(xs):
                xs[number] = block(x, context.time, context.rope, context.texts, path.kernel)

        # The last block leaves the text behind.
        if residuals is not None:
            video = net.embed(inputs)  # again: as large as a sequence, it is not kept through all blocks
            residuals.extend(x - video for x in xs)
        return [net.head(x, context, inputs.latents.shape) for x in xs]

    def reuse(self, inputs: NetworkInputs, condition: Condition, residuals: Sequence[Tensor]) -> list[Tensor]:
        """Predict without the blocks: they are taken to add what they added before.

        Args:
            inputs: All but the prompts.
            condition: Any of the prompts; its length is read.
            residuals: As `predict` gave them.
        """
        self._offload.ready()
        context, video = self.denoiser.context(inputs, condition), self.denoiser.embed(inputs)
        return [self.denoiser.head(video + residual, context, inputs.latents.shape) for residual in residuals]

    def first_input(self, inputs: NetworkInputs) -> Tensor:
        """See `Denoiser.first_input`."""
        self._offload.ready()
        return self.denoiser.first_input(inputs)
