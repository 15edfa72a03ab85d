"""The latents' hash, and the receipt that carries it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from easyanim.v1 import video_pb2 as pb
from easyanim_server.domain.events import Work
from easyanim_server.domain.job import Bucket, Job, Picture
from easyanim_server.domain.model import BucketStatus, ModelInfo
from easyanim_server.domain.profiles import Acceleration, Solver
from easyanim_server.domain.receipt import comment, receipt
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.sampling import Sampling
from easyanim_server.engine.weights import checkpoint
from easyanim_server.prompts.negative import NEGATIVE_ENGLISH, RECOMMENDED

JOB = Job("1", "a cat blinks", NEGATIVE_ENGLISH, Bucket.parse("32x48x5"), steps=2, guidance=6.0, seed=1)
MODEL = ModelInfo("m", "f" * 64, 1, "original", "float32", "cpu", {"torch": "2"})
READY = BucketStatus(JOB.bucket, "eager", "float32", "torch")


def sampling(latents: torch.Tensor) -> Sampling:
    nothing: Any = torch.zeros(0)  # what is not looked at
    return Sampling(latents, nothing, nothing, JOB.bucket, 1.0, 1, nothing, nothing)


def test_the_hash_is_of_type_shape_and_bytes() -> None:
    latents = torch.arange(24, dtype=torch.float32).view(1, 2, 3, 4)
    expected = hashlib.sha256(b"torch.float32 (1, 2, 3, 4) " + latents.numpy().tobytes()).hexdigest()

    assert sampling(latents).fingerprint() == expected
    assert sampling(latents.transpose(2, 3).contiguous().transpose(2, 3)).fingerprint() == expected, "not of strides"
    others = [latents + 1e-6, latents.view(2, 3, 4), latents.bfloat16(), latents.view(1, 2, 4, 3)]
    assert len({sampling(other).fingerprint() for other in others} | {expected}) == 5


def test_a_model_gives_the_same_hash_again_and_another_for_another_seed() -> None:
    engine = Engine(
        EasyAnimatePipeline(checkpoint.load("builtin:tiny", device=torch.device("cpu"), dtype=torch.bfloat16))
    )

    def made(seed: int) -> str:
        state = engine.begin(Job("1", "a cat", "", JOB.bucket, steps=1, guidance=1.0, seed=seed))
        engine.step(state)
        return engine.fingerprint(state)

    assert made(1) == made(1) != made(2)


def test_the_receipt_is_the_contracts_and_none_of_its_fields_is_forgotten() -> None:
    black = Picture(48, 32, bytes(48 * 32 * 3), source_sha256="ab")
    acceleration = Acceleration(Solver.UNIPC, cache_threshold=0.1, guidance_start=0.2, guidance_end=0.8)
    job = Job("1", "p", "n", JOB.bucket, 2, 6.0, 1, start=black, end=black, profile="fast", acceleration=acceleration)
    job = replace(job, guidance_rescale=0.3)
    work = Work(predictions=3, reused_steps=1, cache_coefficients=(0.0, 1.0))

    message = pb.Receipt(**receipt(job, MODEL, READY, "cd", work))

    assert {field.name for field, _ in message.ListFields()} == set(pb.Receipt.DESCRIPTOR.fields_by_name)
    parameters = {field.name for field, _ in message.parameters.ListFields()}
    # The pictures say what the task was, and receipts of the same video stay the same bytes.
    assert parameters | {"task"} == set(pb.Parameters.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize("embedded", [False, True])
def test_the_prompt_is_in_the_metadata_only_where_it_was_asked_for(embedded: bool) -> None:
    job = Job("1", "私 a secret", "my own", JOB.bucket, 2, 6.0, 1, embed_prompt=embedded)

    text = comment(job, MODEL, READY, "cd")

    assert ("secret" in text, "my own" in text) == (embedded, embedded)
    document = json.loads(text)
    assert document["prompt_sha256"] == hashlib.sha256("私 a secret".encode()).hexdigest()
    assert document["negative_prompt_sha256"] == hashlib.sha256(b"my own").hexdigest()
    assert document["receipt"]["latents_sha256"] == "cd"


def test_the_recommended_negative_prompt_is_kept_and_the_jobs_name_is_not() -> None:
    text = comment(JOB, MODEL, READY, "cd", published=RECOMMENDED)

    assert json.loads(text)["receipt"]["parameters"]["negative_prompt"] == NEGATIVE_ENGLISH
    other = Job("another id", *[getattr(JOB, name) for name in JOB.__slots__[1:]])
    assert comment(other, MODEL, READY, "cd", published=RECOMMENDED) == text
