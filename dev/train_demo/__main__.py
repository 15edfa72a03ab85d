"""`python -m dev.train_demo photos | tokenizer | vae | transformer | export`: see README.md beside this file."""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen2Tokenizer

from dev.train_demo import denoiser, export, photos, prompts, vae
from dev.train_demo.motion import draw_scene
from dev.train_demo.networks import Sizes, make_tokenizer

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "server" / "easyanim_server" / "models" / "demo"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one stage."""
    options = _parser().parse_args(arguments)
    device = torch.device(options.device)
    sizes = Sizes.smoke() if options.smoke else Sizes()
    match options.stage:
        case "photos":
            found = photos.collect(options.photographs)
            print(f"{len(found)} photographs in {options.photographs}, {sum(p.held_out for p in found)} held out")
        case "tokenizer":
            export.save_tokenizer(learn_tokenizer(sizes), options.tokenizer)
            print(f"the tokenizer is in {options.tokenizer}")
        case "vae":
            stages: tuple[vae.Stage, ...] = vae.STAGES if device.type == "cuda" else vae.CPU_STAGES
            stages = vae.SMOKE_STAGES if options.smoke else stages
            made = vae.Options(
                options.photographs, options.out, options.seconds, device, options.resume, options.steps,
                seed=options.seed, stages=stages, sizes=sizes,
                bank=32 if options.smoke else 768, refresh=24 if device.type == "cuda" else 1,
            )  # fmt: skip
            vae.train(made if options.rate is None else dataclasses.replace(made, rate=options.rate))
        case "transformer":
            shapes: tuple[denoiser.Shape, ...] = denoiser.SHAPES if device.type == "cuda" else denoiser.CPU_SHAPES
            shapes = denoiser.SMOKE_SHAPES if options.smoke else shapes
            run = denoiser.Options(
                options.photographs, AutoTokenizer.from_pretrained(options.tokenizer), options.vae, options.out,
                options.seconds, device, options.resume, options.steps, seed=options.seed, shapes=shapes, sizes=sizes,
                bank=32 if options.smoke else 768, compiled=device.type == "cuda" and not options.eager,
            )  # fmt: skip
            if options.smoke:
                run = dataclasses.replace(run, judged=4, judged_at=((4, 1.5),), save_every=5.0)
            denoiser.train(run if options.rate is None else dataclasses.replace(run, rate=options.rate))
        case "export" if options.transformer is None:
            print(json.dumps(export.export_vae(options.model, options.vae, sizes)))
        case "export":
            tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
            options.model.mkdir(parents=True, exist_ok=True)
            (options.model / "PHOTOGRAPHS.md").write_text(photos.credits(options.photographs))
            written = export.export(options.model, options.vae, options.transformer, tokenizer, sizes)
            print(json.dumps(written | {"total": sum(written.values())}))


def learn_tokenizer(sizes: Sizes, texts: int = 20000, seed: int = 0) -> Qwen2Tokenizer:
    """Make the tokenizer from prompts as training has them."""
    rng = random.Random(seed)
    corpus = [prompts.describe(draw_scene(rng, 25, 128, 128), rng) for _ in range(texts)]
    return make_tokenizer([*corpus, *prompts.UNCONDITIONAL * 200], sizes.text["vocab_size"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dev.train_demo", description=__doc__)
    parser.add_argument("stage", choices=("photos", "tokenizer", "vae", "transformer", "export"))
    parser.add_argument("--photographs", type=Path, default=ROOT / ".cache" / "photographs")
    parser.add_argument("--tokenizer", type=Path, default=MODEL / "tokenizer")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "train_demo", help="state, logs and samples go here")
    parser.add_argument("--seconds", type=float, default=480, help="of training; the learning rate falls to 0 in them")
    parser.add_argument("--steps", type=int, help="train for so many steps instead")
    parser.add_argument("--resume", type=Path, help="state to go on from: the folder vae or transformer of an --out")
    parser.add_argument(
        "--vae",
        type=Path,
        help="the trained VAE, for transformer and export: its state, or the folder vae of an exported model",
    )
    parser.add_argument(
        "--transformer",
        type=Path,
        help="state of the trained transformer, for export; without it, the VAE alone is written",
    )
    parser.add_argument("--model", type=Path, default=MODEL, help="where export writes")
    parser.add_argument("--rate", type=float, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--eager", action="store_true", help="do not compile the transformer's blocks")
    parser.add_argument("--smoke", action="store_true", help="tiny networks and clips")
    return parser


if __name__ == "__main__":
    main()
