"""`replay`: a video again, from its receipt, and whether it is the same."""

from __future__ import annotations

import json as json_module
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from easyanim_client.client import Client
from easyanim_client.commands.shared import (
    REPLAY_DIFFERS,
    Address,
    Force,
    Json,
    Quiet,
    Timeout,
    Tls,
    refuse_taken,
    reported,
)
from easyanim_client.errors import Details, InvalidRequest, Violation
from easyanim_client.forms import MEDIA_TYPES
from easyanim_client.recording import SAME_NETWORK, Recording
from easyanim_client.render import progress
from easyanim_client.results import Video
from easyanim_client.served import ServerInfo

OPTIONS = {
    "prompt": "--prompt, or --receipt",
    "negative_prompt": "--negative, or --receipt",
    "start_image": "--image",
    "end_image": "--end-image",
}
"""What gives the fields of a request here."""


File = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, help="A video of easyanim, or a receipt that was saved.")
]
Prompt = Annotated[str | None, typer.Option(help="The prompt, where the file does not have it.")]
Negative = Annotated[str | None, typer.Option(help="The same of the negative prompt.")]
Image = Annotated[
    Path | None, typer.Option("--image", exists=True, dir_okay=False, help="The first frame that was sent.")
]
EndImage = Annotated[
    Path | None, typer.Option("--end-image", exists=True, dir_okay=False, help="The last frame that was sent.")
]
ReceiptFile = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="The saved receipt, for the prompts.")
]
Out = Annotated[Path | None, typer.Option(dir_okay=False, help="Keep the new video here, in the old one's format.")]
Anyway = Annotated[bool, typer.Option("--anyway", help="Go on where prompt, picture or model differ.")]


def replay(
    file: File,
    prompt: Prompt = None,
    negative: Negative = None,
    image: Image = None,
    end_image: EndImage = None,
    receipt: ReceiptFile = None,
    out: Out = None,
    force: Force = False,
    anyway: Anyway = False,
    address: Address = "localhost:50051",
    tls: Tls = False,
    timeout: Timeout = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a video again from the receipt in its metadata, and compare the two.

    Prompt and pictures are held against the recorded SHA-256, and the server's
    model against the recorded one, before anything is generated. Afterwards the
    latents' hash (what the model computed) and the file's bytes are compared.
    """
    refuse_taken("--out", out, force=force)
    with (
        reported(json=json, options={}),
        Client(address, tls=tls, timeout=timeout) as client,
        tempfile.TemporaryDirectory() as folder,
    ):
        recording = Recording.load(file)
        kept = _kept_texts(file, recording, receipt)
        texts = {"prompt": prompt, "negative_prompt": negative}
        given = kept | {name: text for name, text in texts.items() if text is not None}
        try:
            arguments = recording.arguments(**given, start_image=image, end_image=end_image, anyway=anyway)
        except InvalidRequest as error:
            raise InvalidRequest(str(error), Details(violations=tuple(map(_with_option, error.violations)))) from error
        if not anyway:
            _check_server(recording, client.info())
        suffix = arguments["format"] if arguments["format"] in MEDIA_TYPES else "mp4"
        if out is not None and out.suffix.lower() != f".{suffix}":
            raise typer.BadParameter(
                f"is {str(out)!r}; must end in .{suffix}, the recorded video's format", param_hint="--out"
            )
        target = out or Path(folder) / f"again.{suffix}"
        generation = client.generate(**arguments, save_to=target, overwrite=force)
        with nullcontext() if json or quiet else progress(Console(stderr=True)) as show:
            for event in generation:
                if show is not None:
                    show(event)
        video = generation.result()
    same = _compare(recording, video, kept=out is not None, json=json)
    raise typer.Exit(0 if same else REPLAY_DIFFERS)


def _kept_texts(file: Path, recording: Recording, receipt: Path | None) -> dict[str, str]:
    """The prompts of a saved receipt by argument.

    Raises:
        InvalidRequest: it is of another video.
        OSError: it cannot be read.
    """
    if receipt is None:
        return {}
    saved = Recording.load(receipt)
    if saved.receipt.latents_sha256 != recording.receipt.latents_sha256:
        raise InvalidRequest(f"{receipt} is the receipt of another video than {file}")
    given = saved.receipt.parameters
    texts = {"prompt": given.prompt} if saved.has_prompt else {}
    return texts | ({"negative_prompt": given.negative_prompt} if saved.has_negative_prompt else {})


def _compare(recording: Recording, video: Video, *, kept: bool, json: bool) -> bool:
    """Say what is the same of two videos; returns whether all is."""
    same_latents = recording.receipt.latents_sha256 == video.receipt.latents_sha256
    same_bytes = recording.file_sha256 == video.sha256
    differences = recording.differences(video.receipt)
    if json:
        verdict = {
            "latents_match": same_latents,
            "bytes_match": same_bytes,
            "latents_sha256": [recording.receipt.latents_sha256, video.receipt.latents_sha256],
            "file_sha256": [recording.file_sha256, video.sha256],
            "differences": differences,
            "path": str(video.path) if kept else None,
        }
        typer.echo(json_module.dumps(verdict, ensure_ascii=False))
    else:
        _tell("latents", same_latents, recording.receipt.latents_sha256, video.receipt.latents_sha256)
        _tell("bytes", same_bytes, recording.file_sha256, video.sha256)
        for name, (was, now) in differences.items():
            typer.echo(f"         {name} was {was}, is {now}")
    return same_latents and same_bytes


def _with_option(wrong: Violation) -> Violation:
    return Violation(wrong.field, f"{wrong.description} ({OPTIONS[wrong.field]})")


def _check_server(recording: Recording, served: ServerInfo) -> None:
    """Refuse a server whose network is another one.

    Raises:
        InvalidRequest: it is, so the video cannot be the same.
    """
    of_server = {name: getattr(served.model, name.removeprefix("model_")) for name in SAME_NETWORK}
    wrong = [
        f"{name} is {now[:16]!r}, was {was[:16]!r}"
        for name, now in of_server.items()
        if now != (was := str(getattr(recording.receipt, name)))
    ]
    if wrong:
        raise InvalidRequest(
            f"the server ({served.model.name}) would make another video: {'; '.join(wrong)}; --anyway makes it"
        )


def _tell(what: str, same: bool, was: str, now: str) -> None:
    typer.echo(
        f"{what:8} " + (f"the same, SHA-256 {now[:16]}…" if same else f"differ: {was[:16]}… then, {now[:16]}… now")
    )
