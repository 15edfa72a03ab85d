"""What the engine does with a V5: every way of running it gives the same video."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from easyanim_server.domain.job import Bucket, Job, Picture
from easyanim_server.domain.profiles import Acceleration, Solver
from easyanim_server.engine.compile.numeric_check import FACTORS
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v5 import builtin, export, folder
from easyanim_server.engine.families.easyanimate_v5.components import ComponentsV5
from easyanim_server.engine.families.easyanimate_v5.text import PromptIds
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.families.easyanimate_v51.vae import VideoAutoencoder
from easyanim_server.engine.families.registry import FAMILIES, recognise
from easyanim_server.engine.sampling import Sampling
from easyanim_server.engine.snapshot import SnapshotError
from easyanim_server.engine.step_cache.teacache import UNFITTED
from easyanim_server.engine.weights.index import CheckpointIndex

FIXTURES = Path(__file__).parents[1] / "fixtures" / "upstream"
BUCKET = Bucket(32, 48, 9)
PLACEMENTS = ("model_cpu_offload", "group_offload", "sequential_cpu_offload")


def modules(name: str = "v5-inp") -> ComponentsV5:
    loaded = folder.read(FIXTURES / "models" / name, name, device=torch.device("cpu"), dtype=torch.float32, own=True)
    assert loaded.transformer.text_proj_t5 is not None
    return loaded


def engine(name: str = "v5-inp", **options: Any) -> Engine:
    return Engine(EasyAnimatePipeline(modules(name)), **options)


def job(solver: Solver = Solver.DDIM, **changed: Any) -> Job:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    start = Picture(48, 32, pixels.tobytes())
    made = Job("1", "a cat", "ugly", BUCKET, 4, 6.0, 7, start=start, acceleration=Acceleration(solver))
    return replace(made, **changed)


def render(made: Engine, given: Job) -> NDArray[np.uint8]:
    sampling = made.begin(given)
    while not sampling.done:
        made.step(sampling)
    return np.concatenate(list(made.decode(sampling)))


@pytest.fixture(scope="module")
def plain() -> NDArray[np.uint8]:
    return render(engine(), job())


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_placement_gives_the_same_video(placement: str, plain: NDArray[np.uint8]) -> None:
    moved = engine(placement=placement)
    moved.prepare([BUCKET])

    assert np.array_equal(render(moved, job()), plain)
    for part in ("text", "text_2", "transformer", "vae"):
        moved.placement.need(part)


def test_both_encoders_are_needed_one_after_the_other() -> None:
    needed: list[str] = []
    pipeline = EasyAnimatePipeline(modules())

    condition = pipeline.encode_text("a cat", needed.append)

    assert needed == ["text", "text_2"]
    assert {name: tuple(tensor.shape) for name, tensor in condition.items()} == {
        "text": (1, 77, 32),
        "text_t5": (1, 256, 48),
    }


def test_a_prepared_bucket_in_pairs_gives_the_video_of_one_after_the_other(plain: NDArray[np.uint8]) -> None:
    paired = engine(guidance_batch="2", attention="auto")
    (status,) = paired.prepare([BUCKET])

    assert status.guidance_batch == 2, status.fallback
    assert np.abs(render(paired, job()).astype(int) - plain).max() <= 1


@pytest.mark.long
def test_a_compiled_bucket_gives_the_eager_video(plain: NDArray[np.uint8]) -> None:
    compiled = engine(backend="inductor", guidance_batch="2", attention="auto")
    (status,) = compiled.prepare([BUCKET])

    assert status.backend == "inductor", status.fallback
    assert np.abs(render(compiled, job()).astype(int) - plain).max() <= 1


def test_weights_in_8_bits_pass_the_numeric_check() -> None:
    (status,) = engine(precision="fp8-weights", placement="model_cpu_offload").prepare([BUCKET])

    assert status.precision == "fp8-weights"
    assert 0 < status.relative_l2 < FACTORS["fp8-weights"] * status.rounding_l2


@pytest.mark.parametrize("solver", [Solver.DDIM, Solver.UNIPC, Solver.DPMPP_2M], ids=lambda solver: solver.value)
@pytest.mark.parametrize("threshold", [0.0, 10.0], ids=["no cache", "cache"])
def test_saved_at_every_step_it_is_resumed_to_the_same_bits(tmp_path: Path, solver: Solver, threshold: float) -> None:
    given = job(acceleration=Acceleration(solver, cache_threshold=threshold), guidance_rescale=0.3)
    first, second = engine(), engine()
    sampling, files = first.begin(given), []
    while not sampling.done:
        files.append(tmp_path / str(sampling.index))
        first.save(sampling, files[-1])
        first.step(sampling)
    assert bool(sampling.reused) is bool(threshold)

    for file in files:
        resumed = second.resume(file)
        while not resumed.done:
            second.step(resumed)
        assert torch.equal(resumed.latents, sampling.latents)

    with pytest.raises(SnapshotError, match="fingerprint"):
        engine("v5-t2v").resume(files[0])


def test_rescaling_gives_a_guided_prediction_the_spread_of_the_prompts_own() -> None:
    made = engine()
    whole, none = (latents_after(made, job(guidance_rescale=share, steps=1)) for share in (1.0, 0.0))

    # DDIM's only step starts from noise alone, so its latents are the prediction, turned round.
    sampling = made.begin(job(guidance=1.0, steps=1))
    made.step(sampling)
    assert float(whole.std()) == pytest.approx(float(sampling.latents.std()), rel=1e-4)
    assert none.std() > 1.05 * whole.std()
    assert torch.allclose(whole / whole.std(), none / none.std(), atol=1e-4)


def latents_after(made: Engine, given: Job) -> Tensor:
    sampling: Sampling = made.begin(given)
    while not sampling.done:
        made.step(sampling)
    return sampling.latents


def test_the_step_caches_numbers_are_those_published_for_v5() -> None:
    published = builtin.synthetic_outline("7b")

    assert published.cache_coefficients == (-3642.04720, 1437.64725, -193.045263, 10.9596499, -0.170663507)
    assert builtin.synthetic_outline("12b").cache_coefficients == UNFITTED


def test_synthetic_models_have_the_published_sizes() -> None:
    outlines = {size: builtin.synthetic_outline(size) for size in ("7b", "12b")}
    counts = {
        name: round(sum(weight.numel() for weight in network.parameters()) / 1e6)
        for name, network in vars(outlines["7b"]).items()
        if isinstance(network, torch.nn.Module)
    }

    assert counts == {"transformer": 6813, "vae": 246, "text_encoder": 351, "text_encoder_2": 1670}
    assert outlines["12b"].transformer.config.mmdit_layers == 48
    assert [ids.limit for ids in (outlines["7b"].tokenizer, outlines["7b"].tokenizer_2)] == [77, 256]


def test_its_outline_counts_both_encoders_and_the_tokens_of_both() -> None:
    (family,) = (known for known in FAMILIES if known.name == "easyanimate-v5")
    outline = family.outline(CheckpointIndex("synthetic:v5-7b", None), torch.bfloat16)
    v51 = FAMILIES[0].outline(CheckpointIndex("synthetic:7b", None), torch.bfloat16)

    assert outline.text_tokens == 333
    assert outline.text == 2 * (350986240 + 1669958656)
    assert outline.text_table == 2 * (47020 * 1024 + 250112 * 2048)
    assert outline.vae > v51.vae
    tokens = outline.geometry.video_tokens(Bucket(384, 672, 49))
    more = outline.step_cost(tokens).attention / v51.step_cost(tokens).attention
    # The last block leaves the text behind, but for its keys and values.
    assert more == pytest.approx(((tokens + 333) / (tokens + 256)) ** 2, rel=1e-3)


@pytest.mark.parametrize("way", ["eager", "exact"])
def test_the_fast_vae_gives_the_stock_networks_numbers_with_attention_in_the_middle(way: str) -> None:
    stock, fast = (VideoAutoencoder(modules().vae, path=path, exact=way == "exact") for path in ("stock", "fast"))
    video = torch.rand(1, 3, 9, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    encoded = [vae.encode(video, lambda done, total: None) for vae in (stock, fast)]
    decoded = [torch.cat(list(vae.decode(encoded[0])), dim=2) for vae in (stock, fast)]

    for one, other in (encoded, decoded):
        torch.testing.assert_close(other, one, rtol=0, atol=0 if way == "exact" else 1e-4)


def test_prompts_beyond_either_limit_keep_their_last_token(tmp_path: Path) -> None:
    loaded = modules()
    words = " ".join(["cat"] * 400)
    for ids, last in ((loaded.tokenizer, "[SEP]"), (loaded.tokenizer_2, "</s>")):
        read = ids.read(words)
        assert read.shape == (1, ids.limit)
        assert int(read[0, -1]) == ids.tokenizer.token_to_id(last)


def test_a_fast_tokenizer_takes_the_place_of_the_pieces(tmp_path: Path) -> None:
    place = Path(shutil.copytree(FIXTURES / "models" / "v5-t2v" / "tokenizer_2", tmp_path / "tokenizer_2"))
    pieces = PromptIds.t5(place)
    pieces.tokenizer.save(str(place / "tokenizer.json"))
    (place / "spiece.model").unlink()

    for prompt in ("a cat", "", "猫 sits</s> here"):
        assert torch.equal(PromptIds.t5(place).read(prompt), pieces.read(prompt))


def test_nothing_given_is_a_mask_and_latents_of_zeros_for_an_image_to_video_model() -> None:
    sampling = engine().begin(job(start=None))

    assert sampling.inputs["inpaint"].shape == (1, 17, 3, 4, 6)
    assert not sampling.inputs["inpaint"].any()


def test_what_is_exported_is_read_back_bit_by_bit(tmp_path: Path) -> None:
    written = modules()
    export.write(written, tmp_path / "model")

    index = CheckpointIndex("mine", tmp_path / "model")
    family = recognise(index)
    family.check(index)
    again = family.components(index, device=torch.device("cpu"), dtype=torch.float32, on_host=False)
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        one, other = (getattr(each, part).state_dict() for each in (written, again))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    for prompt in ("a cat", "猫 sits"):
        assert torch.equal(again.tokenizer.read(prompt), written.tokenizer.read(prompt))
        assert torch.equal(again.tokenizer_2.read(prompt), written.tokenizer_2.read(prompt))
