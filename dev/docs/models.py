"""The tables of docs/models.md: `python -m dev.docs.models write` makes them of the catalogue, `check` compares."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from easyanim_server import catalog
from easyanim_server.domain import published
from easyanim_server.domain.job import START, START_END, TEXT
from easyanim_server.domain.published import Published

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "models.md"

TASKS = {TEXT: "text", START: "start picture", START_END: "start and end picture"}
FOLLOWS = "follows another video"
"""What Control models would be asked for; it is no task of the contract."""


class Proof(NamedTuple):
    """What a test shows of the models of a version and a kind, or of all of them."""

    what: str
    tests: tuple[str, ...]
    """As pytest names them."""
    versions: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    """The cells that it is for; empty of what is true of whole rows."""


_FRAMES = "tests/rpc/test_v5_over_rpc.py::test_the_file_has_the_authors_frames"
_STOCK = "tests/unit/test_parity.py::test_latents_and_frames_equal_the_stock_pipelines"
_AUTHORS = "tests/unit/test_upstream.py::test_every_step_and_the_frames_are_the_authors"
_TEXT_ALONE = "tests/rpc/test_v5_over_rpc.py::test_an_image_to_video_model_makes_videos_from_text_alone"
_CHANNELS = "tests/unit/test_original.py::test_models_that_follow_something_are_told_by_input_channels"
_NAMES = "tests/unit/test_published.py::test_names_that_cannot_be_served_have_a_sentence"

INP, T2V, CONTROLS = ("image-to-video",), ("text-to-video",), ("Control", "Control-Camera")

PROOFS = (
    Proof(
        "V5.1, from text or a start picture: latents and frames are those of diffusers",
        (_STOCK,),
        ("5.1",),
        INP,
        (TEXT, START),
    ),
    Proof(
        "V5.1, from both pictures: steps and frames are the authors', and in diffusers' mode diffusers'",
        (_AUTHORS, _STOCK),
        ("5.1",),
        INP,
        (START_END,),
    ),
    Proof(
        "V5.1 that makes videos from text alone: the file has the authors' frames",
        (f"{_FRAMES}[v51-t2v]",),
        ("5.1",),
        T2V,
        (TEXT,),
    ),
    Proof("V5, from text, though it takes pictures", (_TEXT_ALONE,), ("5",), INP, (TEXT,)),
    Proof(
        "V5, from a start picture: the file has the authors' frames", (f"{_FRAMES}[v5-inp-i2v]",), ("5",), INP, (START,)
    ),
    Proof(
        "V5, from both pictures: the file has the authors' frames",
        (f"{_FRAMES}[v5-inp-i2v-end]",),
        ("5",),
        INP,
        (START_END,),
    ),
    Proof(
        "V5 that makes videos from text alone: the file has the authors' frames",
        (f"{_FRAMES}[v5-t2v]",),
        ("5",),
        T2V,
        (TEXT,),
    ),
    Proof(
        "Control models are told by name or by input channels, and refused",
        (_NAMES, _CHANNELS),
        ("5.1", "5"),
        CONTROLS,
        (FOLLOWS,),
    ),
    Proof(
        "Networks of 7B and 12B have the published numbers of weights",
        (
            "tests/unit/test_builtin.py::test_synthetic_transformers_have_the_published_number_of_weights",
            "tests/unit/test_v5_engine.py::test_synthetic_models_have_the_published_sizes",
        ),
    ),
    Proof(
        "The authors' layout and diffusers' are one model",
        (
            "tests/unit/test_original.py::test_renamed_weights_are_those_of_diffusers_network",
            "tests/unit/test_fetch.py::test_a_converted_model_is_the_same_one",
        ),
    ),
    Proof(
        "A picture for a model that takes none is refused by its field",
        ("tests/rpc/test_v5_over_rpc.py::test_what_the_model_cannot_do_is_refused_by_field",),
    ),
    Proof(
        "Half of one model and half of another is refused by names of weights",
        ("tests/unit/test_original.py::test_half_of_one_model_and_half_of_another_is_refused_by_names",),
    ),
)


def proof_of(model: Published, task: str) -> int:
    """The number of the proof that a published model makes videos of that task, as the page counts.

    Raises:
        LookupError: nothing proves it.
    """
    for number, proof in enumerate(PROOFS, start=1):
        if model.version in proof.versions and model.kind in proof.kinds and task in proof.tasks:
            return number
    raise LookupError(f"no test is named that proves {task} of {model.name}")


def table() -> str:
    """A row a model, a column a task; a cell has the number of its proof."""
    lines = [
        f"| Hugging Face | ModelScope | layout | {' | '.join(TASKS.values())} |",
        f"|---|---|---|{'---|' * len(TASKS)}",
    ]
    for model in published.PUBLISHED:
        known = catalog.find(model.id)
        tasks = known.capabilities.tasks if known else frozenset()
        marks = [f"yes ({proof_of(model, task)})" if task in tasks else "" for task in TASKS]
        if known is None:
            marks[0] = f"not yet ({proof_of(model, FOLLOWS)})"
        # What is in diffusers' layout was published on Hugging Face.
        other = "" if model.diffusers else f"`{published.MODELSCOPE_OWNER}/{model.name}`"
        layout = "diffusers" if model.diffusers else "authors'"
        lines.append(f"| `{model.id}` | {other} | {layout} | {' | '.join(marks)} |")
    return "\n".join(lines) + "\n"


def proofs() -> str:
    """A row a proof."""
    lines = ["| | what | test |", "|---|---|---|"]
    for number, proof in enumerate(PROOFS, start=1):
        lines.append(f"| {number} | {proof.what} | {', '.join(f'`{test}`' for test in proof.tests)} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page with the tables as they should be."""
    text = PAGE.read_text(encoding="utf-8")
    for name, made in (("models", table()), ("proofs", proofs())):
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}{made}{end}{tail}"
    return text


if __name__ == "__main__":
    if sys.argv[1:] == ["write"]:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        raise SystemExit("docs/models.md is not what the catalogue has; python -m dev.docs.models write")
