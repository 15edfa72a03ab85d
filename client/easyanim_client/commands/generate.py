"""`generate`: one video, or a draft of it first."""

from __future__ import annotations

import secrets
import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from easyanim_client.client import Client
from easyanim_client.commands.flags import with_flags
from easyanim_client.commands.shared import (
    NOT_CONFIRMED,
    Address,
    Force,
    Json,
    Quiet,
    Timeout,
    Tls,
    refuse_taken,
    reported,
)
from easyanim_client.draft import DRAFT_STEPS, draft_arguments
from easyanim_client.forms import MEDIA_TYPES
from easyanim_client.recording import save_receipt
from easyanim_client.render import Show, event_json, progress, video_summary
from easyanim_client.results import Video
from easyanim_client.sheet import print_sheet

STDOUT = Path("-")
_OF_DRAFTS_ALONE = ("draft_steps", "draft_bucket", "open_draft", "yes")
_OF_DRAFTS = ("draft_first", *_OF_DRAFTS_ALONE, "seed")


Prompt = Annotated[str, typer.Argument(help="What happens in the video, in English or Chinese.", show_default=False)]
Out = Annotated[
    Path,
    typer.Option(
        dir_okay=False,
        help="File to write; its suffix .mp4, .webm or .mkv is the format and must be there. - is stdout, as MP4. "
        "Where it is left out, out-2.mp4 and so on follow out.mp4.",
    ),
]
ReceiptFile = Annotated[
    Path | None, typer.Option(dir_okay=False, help="Also write the receipt, prompts included, for replay.")
]
DraftFirst = Annotated[
    bool, typer.Option("--draft-first", help="Make a small, quick draft, show it, ask, then make the video.")
]
DraftSteps = Annotated[int, typer.Option(min=1, help="Denoising steps of the draft; needs --draft-first.")]
DraftBucket = Annotated[
    str | None,
    typer.Option(help="The draft's size; needs --draft-first. Default: the smallest of the video's aspect."),
]
OpenDraft = Annotated[
    bool, typer.Option("--open", help="Open the draft with the system's player; needs --draft-first.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask after the draft; needs --draft-first.")]


@with_flags(before="receipt")
def generate(
    context: typer.Context,
    prompt: Prompt,
    out: Out = Path("out.mp4"),
    receipt: ReceiptFile = None,
    force: Force = False,
    draft_first: DraftFirst = False,
    draft_steps: DraftSteps = DRAFT_STEPS,
    draft_bucket: DraftBucket = None,
    open_draft: OpenDraft = False,
    yes: Yes = False,
    address: Address = "localhost:50051",
    tls: Tls = False,
    timeout: Timeout = None,
    json: Json = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Generate one video and save it.

    Progress goes to stderr, one line on the saved video to stdout.
    With --json, stdout has one object per event; the last one holds the
    receipt, or is {"event": "error"} with code, message and violations.

    A file that --out or --receipt names must not be there yet, or --force be
    given. One that appears while the video is made is not replaced either: the
    video takes the next free name then, NAME-2.mp4, and says so.

    With --draft-first, a small NAME.draft.mp4 of few steps comes first, then a
    question, then the video with the same seed. Where nobody can answer, it
    ends after the draft with exit code 8 and names the command that goes on.
    A draft of another size starts from other noise, so it shows whether prompt
    and picture work, not each movement; --draft-bucket with the video's own
    size keeps the noise.
    """
    named = _is_given(context, "out")
    refuse_taken("--out", out if named else None, force=force)
    refuse_taken("--receipt", receipt, force=force)
    arguments: dict[str, Any] = {
        "prompt": prompt,
        **options,
        "save_to": None if out == STDOUT else out,
        "overwrite": force or (False if named else "number"),
    }
    _check_out(out, receipt, json=json, draft_first=draft_first)
    if not draft_first:
        _check_no_draft(context)
    shown = _shown(json=json, quiet=quiet)
    with reported(json=json), Client(address, tls=tls, timeout=timeout) as client:
        if draft_first:
            # Drawn here where it is not given: both videos need the same one.
            arguments["seed"] = secrets.randbelow(2**53) if options["seed"] is None else options["seed"]
            drafted = draft_arguments(arguments, client.info(), steps=draft_steps, bucket=draft_bucket)
            drafted |= {"save_to": out.with_name(f"{out.stem}.draft{out.suffix}"), "overwrite": force or "number"}
            _present(_run(client, drafted, shown), opened=open_draft, told=not json, quiet=quiet)
            _confirm(context, arguments["seed"], yes=yes)
        _deliver(_run(client, arguments, shown), out, receipt, force=force, told=not json, quiet=quiet)


def _deliver(video: Video, out: Path, receipt: Path | None, *, force: bool, told: bool, quiet: bool) -> None:
    if video.data is not None:
        typer.get_binary_stream("stdout").write(video.data)
    if told and not (out == STDOUT and quiet):
        typer.echo(video_summary(video), err=out == STDOUT)
    if receipt is not None:
        save_receipt(video, receipt, overwrite=force)


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter was given in the command, and has not its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _check_out(out: Path, receipt: Path | None, *, json: bool, draft_first: bool) -> None:
    """Refuse at once what would fail when the video is there."""
    if receipt is not None and not receipt.parent.is_dir():
        raise typer.BadParameter(f"the folder {str(receipt.parent)!r} does not exist", param_hint="--receipt")
    if out != STDOUT:
        if not out.suffix:
            named = ", ".join(f"{out}.{suffix}" for suffix in MEDIA_TYPES)
            raise typer.BadParameter(
                f"{str(out)!r} has no suffix to tell the format by; must be one of {named}", param_hint="--out"
            )
        return
    others = {"--json": json, "--draft-first": draft_first, "--receipt": receipt is not None}
    if taken := [name for name, given in others.items() if given]:
        raise typer.BadParameter(f"- is not possible with {', '.join(taken)}; name a file", param_hint="--out")
    if sys.stdout.isatty():
        raise typer.BadParameter("- would fill the terminal; redirect it or name a file", param_hint="--out")


def _check_no_draft(context: typer.Context) -> None:
    """Refuse what would be without effect where no draft is made."""
    names = {item.opts[0]: item.name for item in context.command.params if item.name in _OF_DRAFTS_ALONE}
    if given := [option for option, name in names.items() if _is_given(context, name)]:
        raise typer.BadParameter("is for drafts; give --draft-first with it, or leave it out", param_hint=given)


def _shown(*, json: bool, quiet: bool) -> Callable[[], AbstractContextManager[Show]]:
    if json:
        return lambda: nullcontext(lambda event: typer.echo(event_json(event)))
    if quiet:
        return lambda: nullcontext(lambda event: None)
    return lambda: progress(Console(stderr=True))


def _run(client: Client, arguments: dict[str, Any], shown: Callable[[], AbstractContextManager[Show]]) -> Video:
    generation = client.generate(**arguments)
    with shown() as show:
        for event in generation:
            show(event)
    return generation.result()


def _present(video: Video, *, opened: bool, told: bool, quiet: bool) -> None:
    assert video.path is not None
    if told:
        typer.echo(f"draft {video_summary(video)}")
    if opened and typer.launch(str(video.path)) != 0:
        typer.echo("the draft cannot be opened here; look at the file", err=True)
    if not quiet and sys.stderr.isatty():
        print_sheet(video.path, Console(stderr=True))


def _confirm(context: typer.Context, seed: int, *, yes: bool) -> None:
    """End here, with the command that goes on, unless somebody wants the final video."""
    if not yes and not _confirmed():
        typer.echo(f"The final video with the same seed:\n  {_final_command(context, seed)}", err=True)
        raise typer.Exit(NOT_CONFIRMED)


def _confirmed() -> bool:
    try:
        return sys.stdin.isatty() and typer.confirm("Make the final video?", err=True)
    except typer.Abort:  # Ctrl-C or the end of the input is no answer either
        typer.echo(err=True)
        return False


def _final_command(context: typer.Context, seed: int) -> str:
    """The command as it was given, less what asks for a draft, with the seed."""
    prompt, options = str(context.params["prompt"]), []
    for parameter in context.command.params:
        name, value = parameter.name or "", context.params.get(parameter.name or "")
        if not _is_given(context, name) or name in ("prompt", *_OF_DRAFTS):
            continue
        options += [parameter.opts[0]] if value is True else [parameter.opts[0], str(value)]
    options += ["--seed", str(seed)]
    # Only behind -- is a prompt that begins like an option not taken for one.
    words = [*options, "--", prompt] if prompt.startswith("-") else [prompt, *options]
    return shlex.join(["easyanim-client", context.info_name or "generate", *words])
