"""How compiled blocks fare under the offloading hooks of diffusers and accelerate, and under ours; on the CPU.

    PYTHONPATH=. python dev/bench/hooks.py

Prints, for each, the graphs that dynamo compiled, the breaks between them, and whether it compiles in one piece.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import accelerate
import torch
from diffusers import EasyAnimateTransformer3DModel
from torch._dynamo.utils import counters

from easyanim_server.domain.job import Bucket
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v51 import builtin
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.weights import checkpoint

CPU = torch.device("cpu")


def layerwise_casting(transformer: EasyAnimateTransformer3DModel) -> None:
    transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)


def group_offload(transformer: EasyAnimateTransformer3DModel) -> None:
    transformer.enable_group_offload(CPU, CPU, offload_type="block_level", num_blocks_per_group=1)


def cpu_offload(transformer: EasyAnimateTransformer3DModel) -> None:
    accelerate.cpu_offload(transformer, CPU)


WAYS: dict[str, Callable[[EasyAnimateTransformer3DModel], Any]] = {
    "stock blocks, no hooks": lambda transformer: None,
    "diffusers' enable_layerwise_casting": layerwise_casting,
    "diffusers' enable_group_offload": group_offload,
    "accelerate's cpu_offload": cpu_offload,
}


@torch.no_grad()
def predict(hook: Callable[[EasyAnimateTransformer3DModel], Any], fullgraph: bool) -> None:
    transformer = builtin.tiny(device=CPU, dtype=torch.float32).transformer
    hook(transformer)
    for block in transformer.transformer_blocks:
        block.compile(fullgraph=fullgraph, dynamic=False)
    text, inpaint = torch.zeros(1, 256, 64), torch.zeros(1, 17, 2, 4, 6)
    inputs = (torch.zeros(1, 16, 2, 4, 6), torch.tensor([500.0]))
    transformer(*inputs, encoder_hidden_states=text, inpaint_latents=inpaint)


def compiled(run: Callable[[], Any]) -> str:
    """Graphs and breaks of a run, or the kind of its failure."""
    torch._dynamo.reset()
    counters.clear()
    try:
        run()
    except Exception as error:  # dynamo's failures have no base of their own
        return f"fails: {type(error).__name__}"
    return f"{counters['stats']['unique_graphs']} graphs, {sum(counters['graph_break'].values())} breaks"


def main() -> None:
    for name, hook in WAYS.items():
        loose = compiled(partial(predict, hook, fullgraph=False))
        whole = compiled(partial(predict, hook, fullgraph=True))
        print(f"{name:38} {loose:24} in one piece: {whole}")
    for placement in ("full", "group_offload"):

        def ours(placement: str = placement) -> None:
            modules = checkpoint.load("builtin:tiny", device=CPU, dtype=torch.float32, on_host=placement != "full")
            Engine(EasyAnimatePipeline(modules), backend="inductor", placement=placement).prepare(
                [Bucket.parse("32x48x5")]
            )

        found = compiled(ours)
        print(f"{f'our blocks, {placement}':38} {found:24} in one piece: {found}")


if __name__ == "__main__":
    main()
