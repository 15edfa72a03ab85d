"""What the engine asks of a loaded model, and nothing else: `Pipeline`, `Denoiser`, and what passes between them.

Only families know the classes behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from easyanim_server.domain.job import Bucket, Job
from easyanim_server.domain.model import Capabilities, PromptTokenizer
from easyanim_server.domain.profiles import Solver as SolverName
from easyanim_server.domain.protocols import Observer
from easyanim_server.engine.solvers.base import Schedule

Unit = TypeVar("Unit")

DENOISER = "transformer"
"""Name of the denoiser's component in every family."""

Condition = Mapping[str, Tensor]
"""A prompt's embeddings by name, (1, ...) each; shared between callers, so not to be written to."""

Rope = tuple[Tensor, Tensor]
"""Cosines and sines of the angles of all tokens, (text + video tokens, head channels) float32; text is not turned."""

Need = Callable[[str], None]
"""Called with a component's name before it is used, to have its weights on the device."""

BlockCall = Callable[[Tensor, Tensor, Rope, int, str], Tensor]
"""One block, or what a compiler made of it: takes tokens, embedded time, angles, count of text tokens and the attention
kernel, and returns tokens. The last block may leave the text tokens behind."""


def resident(name: str) -> None:
    """A `Need` for weights that stay on the device."""


@dataclass(frozen=True, eq=False)
class NetworkInputs:
    """One prediction's inputs, but for the prompt."""

    latents: Tensor
    """Noisy video, (batch, channels, frames', height', width'), in the weights' dtype."""
    timestep: Tensor
    """(batch,), in the dtype of `latents`."""
    given: Mapping[str, Tensor]
    """What else the network reads, by name; (batch, ...) each."""


@dataclass(frozen=True, eq=False)
class BlockContext:
    """What all blocks of one prediction take beside the tokens."""

    time: Tensor
    """Embedded timestep, (batch, channels)."""
    rope: Rope
    texts: int
    """How many of the tokens are text; they come first."""


@dataclass(frozen=True, eq=False)
class ExecutionPath:
    """How the blocks run for one shape."""

    blocks: Sequence[BlockCall]
    """In order: modules, or what a compiler made of them."""
    kernel: str = "torch"
    """The attention kernel."""


class Block(Protocol):
    """A block of the transformer: the unit that is compiled, offloaded and converted."""

    @property
    def kind(self) -> tuple[bool, ...]:
        """Blocks of one kind compute the same function of inputs and weights."""

    @property
    def drops_text(self) -> bool:
        """Whether it returns the video tokens alone, as a last block may."""

    @property
    def takes_fp8(self) -> bool:
        """Whether its large products hold fp8 weights and take quantised inputs."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """See `nn.Module`, as the next two."""

    def buffers(self) -> Iterator[Tensor]:
        """Tensors that are no parameters."""

    def to(self, dtype: torch.dtype) -> Block:
        """Convert in place."""

    def forward(self, x: Tensor, emb: Tensor, rope: Rope, texts: int, kernel: str) -> Tensor:
        """See `BlockCall`."""

    def before_attention(
        self, x: Tensor, emb: Tensor, rope: Rope, texts: int, scale: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Queries times `scale`, keys, values, (batch, tokens, heads, channels) each, and two tensors of modulation."""

    def after_attention(self, x: Tensor, attended: Tensor, first: Tensor, second: Tensor, texts: int) -> Tensor:
        """The rest of the block, of the attention's result and the modulation."""


class Denoiser(Protocol):
    """The network that predicts, in parts: embed, blocks, head. It never waits for the device."""

    @property
    def network(self) -> nn.Module:
        """Holds all weights by their checkpoint's names; with diffusers' `config` where there is one."""

    @property
    def mode(self) -> str:
        """Which of several networks of the same weights runs; part of the keys of what is cached."""

    @property
    def exact(self) -> bool:
        """Whether eager predictions are to have another implementation's bits: in its batch of two, by its products."""

    @property
    def blocks(self) -> Sequence[Block]:
        """In order."""

    @property
    def eager(self) -> ExecutionPath:
        """The blocks as they are, with torch's choice of attention."""

    def context(self, inputs: NetworkInputs, condition: Condition) -> BlockContext:
        """Embed the time, and look up the angles of all tokens."""

    def embed(self, inputs: NetworkInputs) -> Tensor:
        """Video tokens, (batch, video tokens, dim)."""

    def join(self, video: Tensor, condition: Condition) -> Tensor:
        """Tokens of the prompt before the video's, (batch, text + video tokens, dim)."""

    def head(self, video: Tensor, context: BlockContext, shape: torch.Size) -> Tensor:
        """Turn the video's tokens after the last block into a prediction of the latents' shape."""

    def first_input(self, inputs: NetworkInputs) -> Tensor:
        """What the first block's attention gets of the video; the step cache measures its change."""

    def example(self, bucket: Bucket, device: torch.device, batch: int = 1) -> tuple[NetworkInputs, Condition]:
        """Random inputs of a bucket's shape on `device`, the same on every call; all samples of a batch are alike."""

    def attention_shape(self, bucket: Bucket) -> torch.Size:
        """Of queries, keys and values of one prediction: (1, tokens, heads, channels)."""

    def largest_product(self) -> float:
        """The most that a query times a key can be in any block; see `attention.select.largest_product`."""

    def replace_products(self, number: int, make: Callable[[nn.Linear], nn.Module], give_up: bool = False) -> None:
        """Replace the large linear layers of a block.

        Args:
            number: The block's.
            make: Gives what replaces a layer.
            give_up: Whether modules that share the layers' weights lose them, and cannot run any more.
        """


class OffloadSchedule(Protocol):
    """Brings the denoiser's weights to where it runs."""

    @property
    def joint(self) -> bool:
        """Whether each block should run for all prompts before the next one: its weights are on their way."""

    def ready(self) -> None:
        """Have what is needed all the time on the device; to be called before a prediction."""

    def over(self, units: Sequence[Unit]) -> Iterable[Unit]:
        """Yield the blocks in order, each while its weights are there."""


@dataclass(frozen=True, eq=False)
class Component:
    """A network that a placement moves as one."""

    network: nn.Module
    units: Sequence[Sequence[nn.Module]] = ()
    """Parts whose weights can come one after the other, in the order in which they are needed; a part may be several
    modules that share weights, some of them outside of `network`."""
    calls_units: bool = False
    """Whether the network's own forward calls the units, one module each; else blocks run over an `OffloadSchedule`.
    Such a network is read once for a prompt, where one piece takes as long as one unit after the other."""
    table: nn.Module | None = None
    """Looked up in host memory while the units come one by one."""


class Pipeline(Protocol):
    """One loaded model. Calls come from one thread; those that fail leave no trace."""

    @property
    def name(self) -> str:
        """As the operator named it."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the denoiser's weights, latents and conditions."""

    @property
    def components(self) -> Mapping[str, Component]:
        """By name, `DENOISER` among them; those whose weights are copied most often come first."""

    @property
    def denoiser(self) -> Denoiser:
        """The network that predicts."""

    @property
    def tokenizer(self) -> PromptTokenizer:
        """How prompts are counted."""

    @property
    def attention_mode(self) -> str:
        """`original` is the network as it was trained; others repeat another implementation's."""

    @property
    def parameters(self) -> int:
        """Of the denoiser."""

    @property
    def capabilities(self) -> Capabilities:
        """What requests may ask for, and values for what they leave out."""

    @property
    def cache_coefficients(self) -> tuple[float, ...]:
        """Of the step cache's polynomial, as published for this network; highest power first."""

    @property
    def short_clip(self) -> int:
        """Frames of the shortest clip that runs everything the VAE does."""

    def fingerprint(self) -> str:
        """SHA-256 over configuration and weights' names and shapes, hex."""

    def tiles(self, height: int, width: int) -> bool:
        """Whether videos of that size are encoded and decoded in tiles, which changes pixels."""

    def encode_text(self, prompt: str, need: Need) -> Condition:
        """Embed one prompt, which may be empty.

        Args:
            prompt: What is beyond the model's limit is cut.
            need: Called before a component is used.
        """

    def draw(self, job: Job) -> Mapping[str, Tensor]:
        """Draw all noise of a generation from its seed, standard normal, float32 on the host.

        The order of the draws belongs to the family. ``latents`` is the start of the generation; other names are read
        by `encode_inputs`.

        Raises:
            ValueError: the job contradicts itself, or asks for what the model cannot make.
        """

    def encode_inputs(
        self, job: Job, noise: Mapping[str, Tensor], need: Need, observe: Observer
    ) -> Mapping[str, Tensor]:
        """What the network reads beside latents, time and prompt, by name.

        Args:
            job: Its pictures are encoded.
            noise: As `draw` gives it.
            need: Called before a component is used.
            observe: Called while pictures are encoded, with (phase, completed, total); may raise to leave.

        Raises:
            ValueError: as `draw`.
            NonFinite: pictures are encoded to what are no numbers.
        """

    def schedule(self, steps: int, solver: SolverName) -> Schedule:
        """The noise levels of so many steps with that solver, and what the network predicts."""

    def decode(self, latents: Tensor, need: Need) -> Iterator[Tensor]:
        """Yield frames as soon as they are there; may be left at any point.

        Args:
            latents: After the last step.
            need: Called before a component is used.

        Yields:
            (batch, 3, n, height, width), about [-1, 1]; n is 0 where no frame is complete yet but the caller may leave.
        """
