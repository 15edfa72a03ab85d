"""The command `easyanim-server`: reads settings, wires the parts. No logic of its own."""

from __future__ import annotations

import asyncio
import inspect
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from easyanim_server.domain.wording import counted

try:
    import structlog
    import typer
    from pydantic.fields import FieldInfo

    from easyanim_server import __version__
    from easyanim_server.catalog import DEFAULT_MODEL
    from easyanim_server.cli import doctor
    from easyanim_server.cli.usage import Commands, option_name
    from easyanim_server.config import checks as preflight
    from easyanim_server.config import environment
    from easyanim_server.config.settings import Settings
    from easyanim_server.config.sources import ENV_PREFIX
    from easyanim_server.domain import cards
    from easyanim_server.domain.errors import ConfigurationError, EasyAnimError, UnsupportedModel
    from easyanim_server.domain.execution import Word
    from easyanim_server.rpc.server import serve as serve_app
    from easyanim_server.telemetry import output
    from easyanim_server.telemetry.log import configure_logging
    from easyanim_server.workers.process import LocalWorker
except ModuleNotFoundError as missing:
    print(
        f"easyanim-server needs {missing.name}: pip install '.[server]' in a clone of easyanim installs it",
        file=sys.stderr,
    )
    raise SystemExit(2) from missing

log = structlog.get_logger(__name__)

EXIT_USAGE = 2
EXIT_FAILED = 1


app = typer.Typer(
    cls=Commands,
    help="EasyAnimate V5 and V5.1 behind a streaming gRPC call.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of no command."""


def _flag(name: str, field: FieldInfo) -> inspect.Parameter:
    """A setting as a command-line flag: text, so that `Settings` alone decides what it means."""
    default = field.get_default(call_default_factory=True)
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    flag = option_name(name)
    # In the text: what typer shows of a default that is no value of the flag stands in brackets and is cut off.
    note = "" if shown in (None, "") else f" Default: {str(shown).lower() if shown is True else shown}."
    option = typer.Option(flag, help=f"{_described(name)}{note}", show_default=False, metavar=_kind(field.annotation))
    return _parameter(name, Annotated[str | None, option])


def _described(name: str) -> str:
    """What the help says of a setting, with the values that it may have where they are few."""
    field = Settings.model_fields[name]
    choices = ", ".join(_choices(field.annotation))
    return f"{field.description} One of {choices}." if choices else str(field.description)


def _choices(annotation: Any) -> tuple[str, ...]:
    if isinstance(annotation, type) and issubclass(annotation, Word):
        return tuple(map(str, annotation))
    return tuple(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ()


def _kind(annotation: Any) -> str:
    """What stands for a setting's value in the help."""
    kinds = {kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)}
    names = {bool: "<true|false>", int: "<int>", float: "<float>", Path: "<path>"}
    return "<choice>" if _choices(annotation) else next((names[kind] for kind in names if kind in kinds), "<text>")


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _with_settings(command: Any) -> Any:
    """Give `command(settings, ...)` one flag for every setting, and `--config`, beside the options of its own."""
    _, *own = inspect.signature(command, eval_str=True).parameters.values()

    def wrapped(config: Path | None, **flags: Any) -> None:
        others = {parameter.name: flags.pop(parameter.name) for parameter in own}
        given = {name: value for name, value in flags.items() if value is not None}
        command(Settings.load(given, config), **others)

    file = typer.Option("--config", help="A TOML file of settings.", show_default=False)
    config = _parameter("config", Annotated[Path | None, file])
    flags = [_flag(name, field) for name, field in Settings.model_fields.items()]
    wrapped.__signature__ = inspect.Signature([config, *own, *flags])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in (config, *own, *flags)}
    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    return wrapped


def _whole(text: str) -> int:
    """A whole number; typer's own refusal does not say what it was given."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} must be a whole number") from None


def _number(words: str) -> Any:
    """An option that takes a whole number."""
    return typer.Option(help=words, parser=_whole, metavar="<int>")


Force = Annotated[bool, typer.Option("--force", help="Replace a file that exists already.")]

SOURCES = f"Every flag is also an environment variable, {ENV_PREFIX}NAME, and a key of the TOML file."


def _examples(*lines: str, before: str = "") -> str:
    """The end of a command's help: examples, one a line."""
    return "\n".join([*([before, ""] if before else []), "Examples:", *lines])


@app.command(
    epilog=_examples(
        f"easyanim-server serve  # {DEFAULT_MODEL}",
        "easyanim-server serve --model builtin:demo  # on any machine",
        "easyanim-server serve --buckets 384x672,672x384 --listen 0.0.0.0:50051",
        "easyanim-server serve --config easyanim.toml --log-format json",
        before=SOURCES,
    )
)
@_with_settings
def serve(settings: Settings) -> None:
    """Load the model, warm every bucket, serve until SIGTERM or SIGHUP."""
    preflight.check(settings)
    preflight.check_device(settings.device)
    preflight.check_address(settings.listen)
    configure_logging(settings.log_format, settings.log_level)
    output.keep_writable()
    cache = environment.cache_folder(settings.cache_dir)
    if environment.will_not_last(cache):
        log.warning("the home folder cannot be written; compiled code goes with temporary files", folder=str(cache))
    asyncio.run(
        serve_app(settings, LocalWorker(settings), lambda address: print(f"listening on {address}", flush=True))
    )


@app.command(name="doctor", epilog=_examples("easyanim-server doctor --config easyanim.toml", before=SOURCES))
@_with_settings
def doctor_command(
    settings: Settings,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")] = False,
) -> None:
    """Say what this machine can do and what is missing for these settings."""
    raise typer.Exit(doctor.report(settings, as_json=json))


@app.command(epilog=_examples("easyanim-server warm --buckets 384x672 --cache-dir /var/cache/easyanim", before=SOURCES))
@_with_settings
def warm(settings: Settings) -> None:
    """Build every bucket, so that later starts find compiled code in the cache."""
    preflight.check(settings)
    from easyanim_server.cli import tools

    configure_logging(settings.log_format, settings.log_level)
    for line in tools.warm(settings, lambda detail: typer.echo(detail, err=True)):
        typer.echo(line)


@app.command(
    epilog=_examples(
        "easyanim-server plan --vram 24GB --card 4090",
        "easyanim-server plan --vram 12GiB --buckets 384x672,576x1008",
    )
)
def plan(
    vram: Annotated[str, typer.Option(help="The card's memory: 24GiB, 24GB, 24564MiB.")],
    card: Annotated[
        str | None, typer.Option(help=f"Estimate seconds for this card: {', '.join(cards.CARDS)}. Default: an H200's.")
    ] = None,
    model: Annotated[str | None, typer.Option(help=_described("model"))] = None,
    buckets: Annotated[str | None, typer.Option(help=_described("buckets"))] = None,
    placement: Annotated[str | None, typer.Option(help=_described("placement"))] = None,
    precision: Annotated[str | None, typer.Option(help=_described("precision"))] = None,
    backend: Annotated[str | None, typer.Option(help=_described("backend"))] = None,
    vae_tiling: Annotated[str | None, typer.Option(help=_described("vae_tiling"))] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print what fits a card of that size, bucket by placement; needs no GPU."""
    flags = {"model": model, "buckets": buckets, "placement": placement, "precision": precision, "backend": backend,
             "vae_tiling": vae_tiling}  # fmt: skip
    settings = Settings.load({name: value for name, value in flags.items() if value is not None})
    preflight.check_model(settings.model, settings.revision)
    environment.temporary_folder()
    known = cards.find(card) if card else None
    from easyanim_server.cli import memory_plan as memoryplan

    made = memoryplan.plan(settings, vram, known)
    if as_json:
        typer.echo(memoryplan.to_json(made))
    else:
        memoryplan.show(made)


@app.command(name="fit-cache", epilog=_examples("easyanim-server fit-cache --model my/finetune --out fit.json"))
def fit_cache(
    out: Annotated[
        Path, typer.Option(dir_okay=False, help="File to write, for the setting cache_coefficients.")
    ] = Path("cache-coefficients.json"),
    prompts: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A prompt a line. Default: four of our own.")
    ] = None,
    generations: Annotated[int, _number("How many; prompts take turns, seeds count from 0.")] = 8,
    steps: Annotated[int, _number("Of each, all of them computed.")] = 50,
    bucket: Annotated[str | None, typer.Option(help="HxW or HxWxF. Default: the model's first.")] = None,
    model: Annotated[str | None, typer.Option(help=_described("model"))] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A TOML file of settings.")] = None,
    force: Force = False,
) -> None:
    """Fit the step cache (TeaCache) to a model; other settings come from --config and the environment."""
    flags = {"model": model, "buckets": bucket}
    settings = Settings.load({name: value for name, value in flags.items() if value is not None}, config)
    preflight.check(settings)
    from easyanim_server.cli import tools

    configure_logging(settings.log_format, settings.log_level)
    texts = prompts.read_text(encoding="utf-8-sig") if prompts else ""
    lines = [line.strip() for line in texts.splitlines() if line.strip()]
    if prompts and not lines:
        raise ConfigurationError(f"{str(prompts)!r} has no prompt; it must have one a line")
    out.parent.mkdir(parents=True, exist_ok=True)
    preflight.check_new_file(out, force=force)  # before the work, not after it
    found = tools.fit_cache(settings, lines, generations, steps, lambda detail: typer.echo(detail, err=True))
    found.write(out)
    least, most = found.change_range
    typer.echo(f"coefficients {', '.join(f'{value:.8g}' for value in found.coefficients)}")
    typer.echo(
        f"fitted to {counted(found.points, 'step')} with changes from {least:.4g} to {most:.4g}; "
        f"misses {found.rms_error:.3g}"
    )
    typer.echo(f"wrote {out}; serve with --cache-coefficients {out}")


cache_app = typer.Typer(help="Move compiled code to other machines of the same kind.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")
File = Annotated[Path, typer.Argument(help="The packed cache, a .tar.gz.")]
CacheDir = Annotated[str | None, typer.Option(help=_described("cache_dir"))]
Device = Annotated[str, typer.Option(help=_described("device"))]


@cache_app.command("export", epilog=_examples("easyanim-server cache export compiled.tar.gz"))
def cache_export(file: File, cache_dir: CacheDir = None, device: Device = "auto", force: Force = False) -> None:
    """Pack what was compiled for this device and version into one file."""
    preflight.check_new_file(file, force=force)
    environment.temporary_folder()
    from easyanim_server.cli import tools

    count = tools.pack_cache(Settings.load({"cache_dir": cache_dir, "device": device}), file)
    typer.echo(f"packed {counted(count, 'file')} into {file}")


@cache_app.command("import", epilog=_examples("easyanim-server cache import compiled.tar.gz"))
def cache_import(file: File, cache_dir: CacheDir = None, device: Device = "auto") -> None:
    """Unpack a cache that was made for this device and version; it is code, so import only what you trust."""
    environment.temporary_folder()
    from easyanim_server.cli import tools

    count = tools.unpack_cache(Settings.load({"cache_dir": cache_dir, "device": device}), file)
    typer.echo(f"unpacked {counted(count, 'file')} from {file}")


@app.command(epilog=_examples("easyanim-server export ./tiny", "easyanim-server serve --model ./tiny"))
def export(
    folder: Annotated[Path, typer.Argument(help="Where to write; must be empty or new.")],
    model: Annotated[str, typer.Option(help="What to write.")] = "builtin:tiny",
) -> None:
    """Write a model as a diffusers folder, which `serve --model FOLDER` and diffusers itself can load."""
    environment.temporary_folder()
    from easyanim_server.cli import tools

    tools.export(model, folder)
    typer.echo(f"wrote {model} to {folder}")


@app.command(
    epilog=_examples(
        "easyanim-server fetch EasyAnimateV5-7b-zh-InP",
        "easyanim-server fetch modelscope:PAI/EasyAnimateV5.1-7b-zh-InP",
        "HF_HUB_OFFLINE=1 easyanim-server serve --model EasyAnimateV5-7b-zh-InP",
    )
)
def fetch(
    model: Annotated[str, typer.Argument(help="An id of Hugging Face, or modelscope:ID.")] = DEFAULT_MODEL,
    revision: Annotated[str | None, typer.Option(help=_described("revision"))] = None,
) -> None:
    """Download all that `serve` reads of a model, so that it needs no network; goes on where it was cut off."""
    settings = Settings.load({"model": model, **({"revision": revision} if revision else {})})
    from easyanim_server.cli import fetch as fetching

    typer.echo(fetching.fetch(settings.model, settings.revision))


@app.command(
    epilog=_examples(
        "easyanim-server convert ./EasyAnimateV5.1-7b-zh-InP ./EasyAnimateV5.1-7b-zh-InP-diffusers",
    )
)
def convert(
    source: Annotated[str, typer.Argument(help="A folder in the authors' layout, or an id.")],
    target: Annotated[Path, typer.Argument(help="Where to write; there must be nothing yet.")],
    revision: Annotated[str | None, typer.Option(help=_described("revision"))] = None,
) -> None:
    """Write a model of EasyAnimate's own layout as a diffusers folder; `serve` reads either, so it need not be."""
    settings = Settings.load({"model": source, **({"revision": revision} if revision else {})})
    preflight.check_model(settings.model, settings.revision)
    environment.temporary_folder()
    from easyanim_server.cli import tools

    tools.convert(settings.model, settings.revision, target)
    typer.echo(f"wrote {settings.model} to {target}")


@app.command(
    epilog=_examples(
        "easyanim-server bench --buckets 384x672 --precisions bf16",
        "easyanim-server bench --device cpu --buckets 96x160x13 --backends eager --steps 4",
    )
)
def bench(
    model: Annotated[str | None, typer.Option(help="Default: synthetic:7b, on the CPU builtin:tiny.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    buckets: Annotated[str | None, typer.Option(help="HxW or HxWxF. Default: three published sizes.")] = None,
    backends: Annotated[str, typer.Option(help="Of ours; generations run in the last.")] = "eager,inductor",
    precisions: Annotated[
        str | None, typer.Option(help="Of the large products. Default: bf16,fp8, on the CPU bf16.", show_default=False)
    ] = None,
    steps: Annotated[str, typer.Option(help="Of whole generations.")] = "25,35,50",
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("bench-results"),
    repeats: Annotated[int, _number("How often a step is measured at most.")] = 3,
    full: Annotated[bool, typer.Option("--full", help="All steps in every bucket, not the smallest alone.")] = False,
    pairs: Annotated[bool, typer.Option("--pairs", help="Guidance in batches of two as well.")] = False,
    what: Annotated[str, typer.Option(help="Names the file: GPU-WHAT.json.")] = "speed",
    commit: Annotated[str | None, typer.Option(help="What is measured, where there is no clone to ask.")] = None,
    force: Force = False,
) -> None:
    """Measure stock diffusers and our paths side by side. Lists are separated by commas."""
    if model is not None:
        preflight.check_model(model)
    environment.temporary_folder()
    from easyanim_server.benchmark import benchmark
    from easyanim_server.benchmark import tables as speedtable

    plan = benchmark.Plan.parse(model, device, buckets, backends, precisions, steps, repeats, full, pairs)
    run = benchmark.Benchmark(plan, out, commit, typer.echo, what)
    if run.file.exists():
        preflight.check_new_file(run.file, force=force)
    run.run()
    typer.echo(f"wrote {run.file}")
    speedtable.show(run.rows)


@app.command(
    epilog=_examples(
        "easyanim-server tune --budget 20m --image cup.jpg --prompt 'steam rises from the cup'",
        "easyanim-server serve --tuned tuning/tuned.json",
    )
)
def tune(
    model: Annotated[str | None, typer.Option(help=_described("model"))] = None,
    buckets: Annotated[str | None, typer.Option(help=_described("buckets"))] = None,
    device: Annotated[str | None, typer.Option(help=_described("device"))] = None,
    budget: Annotated[str, typer.Option(help="When to stop: 90s, 20m, 1h30m. Run it again to go on.")] = "20m",
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("tuning"),
    steps: Annotated[str, typer.Option(help="Of whole generations, whose frames are compared.")] = "25,35,50,75",
    placements: Annotated[
        str, typer.Option(help="Memory modes to try; those with 8 bits only if named.")
    ] = "full,model_cpu_offload,group_offload,sequential_cpu_offload",
    backends: Annotated[
        str | None, typer.Option(help="To try. Default: inductor,eager, on the CPU eager.", show_default=False)
    ] = None,
    precisions: Annotated[str, typer.Option(help="To try; fp8 changes videos, so it is asked for.")] = "bf16",
    prompt: Annotated[str, typer.Option(help="Of the videos that are made.")] = "the light changes slowly",
    image: Annotated[Path | None, typer.Option(help="Their start picture. Default: one that is drawn.")] = None,
    vram_limit_gib: Annotated[str | None, typer.Option(help=_described("vram_limit_gib"))] = None,
    cache_dir: CacheDir = None,
    retry: Annotated[bool, typer.Option("--retry", help="Measure again what failed before.")] = False,
) -> None:
    """Measure on this machine which settings are the fastest; `serve --tuned OUT/tuned.json` uses them."""
    flags = {"model": model, "buckets": buckets, "device": device, "vram_limit_gib": vram_limit_gib,
             "cache_dir": cache_dir}  # fmt: skip
    settings = Settings.load({name: value for name, value in flags.items() if value is not None})
    preflight.check(settings)
    from easyanim_server.tune import command as tunecommand

    plan = tunecommand.TunePlan.parse(
        settings, budget=budget, steps=steps, placements=placements, backends=backends, precisions=precisions,
        prompt=prompt, image=image,
    )  # fmt: skip
    configure_logging(settings.log_format, "warning")
    tunecommand.run(plan, out, retry, typer.echo)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command line; a line for each wrong setting or file and exit code 2, other failures with a name in 1."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")  # a terminal without Unicode is no reason to fail
    try:
        environment.prepare()  # before any command imports torch
        app(prog_name="easyanim-server")
    except EasyAnimError as error:
        for line in str(error).splitlines():
            print(f"easyanim-server: {line}", file=sys.stderr)
        usage = isinstance(error, (ConfigurationError, UnsupportedModel))
        raise SystemExit(EXIT_USAGE if usage else EXIT_FAILED) from None
    except OSError as error:
        if error.filename is None:  # no file of the user's
            raise
        print(f"easyanim-server: {error.filename}: {error.strerror}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None


if __name__ == "__main__":
    main()
