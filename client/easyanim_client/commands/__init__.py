"""The commands of `easyanim-client`, thin over Client; one group of them a module. The only importer of typer."""

from __future__ import annotations

import re
from importlib.metadata import version as installed_version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from easyanim_client.commands.ask import health, info, lint_prompt
from easyanim_client.commands.batch import batch
from easyanim_client.commands.bench import bench
from easyanim_client.commands.generate import generate
from easyanim_client.commands.replay import replay
from easyanim_client.commands.shared import EPILOG, epilog
from easyanim_client.commands.top import top
from easyanim_client.render import error_line
from easyanim_client.suggestions import name_the_nearest

__all__ = ["EPILOG", "app"]


SYNONYMS = {
    "--cfg": "--guidance", "--cfg-scale": "--guidance", "--deadline": "--timeout", "--duration": "--frames",
    "--endpoint": "--address", "--first-frame": "--image", "--frame-rate": "--fps", "--guidance-scale": "--guidance",
    "--height": "--bucket", "--host": "--address", "--input": "--image", "--last-frame": "--end-image",
    "--length": "--frames", "--negative-prompt": "--negative", "--num-frames": "--frames",
    "--num-inference-steps": "--steps", "--output": "--out", "--parallel": "--concurrency", "--port": "--address",
    "--resolution": "--bucket", "--sampler": "--solver", "--scheduler": "--solver", "--server": "--address",
    "--size": "--bucket", "--start-image": "--image", "--url": "--address", "--width": "--bucket",
    "--workers": "--concurrency", "-a": "--address", "-i": "--image", "-o": "--out",
}  # fmt: skip
"""What other programs call our options."""


class _Commands(TyperGroup):
    """Says of a wrong value what it is, and of any wrong usage a line of JSON too where JSON was asked for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the options before the command."""
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            name_the_nearest(error, SYNONYMS)
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        json = "--json" in ctx.args
        try:
            return super().invoke(ctx)
        except typer.TyperException as error:
            name_the_nearest(error, SYNONYMS)
            if isinstance(error, typer.BadParameter):
                error.message = _with_value(error)
            if json:
                typer.echo(error_line("INVALID_ARGUMENT", error.format_message()))
            raise


def _with_value(error: typer.BadParameter) -> str:
    """The message of a value that has not the option's type or range; typer's own leaves the value out."""
    found: list[Any] = getattr(error.__cause__, "errors", list)()  # pydantic's, which typer reads values with
    allowed = re.match(r"Input should be ([^,]+)", error.message)
    return f"is {found[0]['input']!r}; must be {allowed[1]}" if found and allowed else error.message


app = typer.Typer(
    cls=_Commands,
    help="Turns a picture and a sentence into a video on an easyanim server.",
    epilog=epilog(
        'easyanim-client generate "steam rises from the cup" --image cup.jpg --out cup.mp4',
        "easyanim-client generate --help",
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(installed_version("easyanim-client"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of no command."""


app.command(
    epilog=epilog(
        'easyanim-client generate "steam rises from the cup" --image cup.jpg --out cup.mp4',
        'easyanim-client generate "杯子里升起缓缓的热气" --image cup.jpg --seed 7 --steps 25',
        'easyanim-client generate "a fox runs through snow" --bucket 576x1008 --draft-first',
        'easyanim-client generate "a fox" --json | tail -n 1 | jq .receipt',
    )
)(generate)
app.command(
    epilog=epilog(
        "easyanim-client batch pictures/ --prompt 'gentle wind moves the leaves' --out-dir videos",
        "easyanim-client batch jobs.jsonl --concurrency 4",
        before='A line of jobs.jsonl: {"prompt": "a cat blinks", "start_image": "cat.jpg", "steps": 25}\n\n',
    )
)(batch)
app.command(
    epilog=epilog(
        'easyanim-client replay cup.mp4 --prompt "steam rises from the cup" --image cup.jpg',
        "easyanim-client replay cup.mp4 --receipt cup.json --image cup.jpg --out again.mp4",
    )
)(replay)
app.command("lint-prompt", epilog=epilog('easyanim-client lint-prompt "a street with no people"'))(lint_prompt)
app.command(epilog=epilog("easyanim-client info --json | jq '.buckets[].name'"))(info)
app.command(epilog=epilog("easyanim-client health --wait 600 && echo ready"))(health)
app.command(
    epilog=epilog(
        "easyanim-client bench --requests 20 --concurrency 4 --steps 8",
        "easyanim-client bench --requests 5 --cancel-after 0.5 --json",
    )
)(bench)
app.command(epilog=epilog("easyanim-client top --interval 2", "easyanim-client top --once"))(top)
