"""All settings in one frozen object, read once: flags, `EASYANIM_*`, a TOML file, a tuning file, then defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from easyanim_server import catalog
from easyanim_server.catalog import DEFAULT_MODEL
from easyanim_server.config import model_defaults as modeldefaults
from easyanim_server.config import tuned as tuning
from easyanim_server.config.sources import ENV_PREFIX, TomlFile, sentences, unknown_environment, unknown_names
from easyanim_server.domain import published
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.execution import Backend, Precision, Tiling
from easyanim_server.domain.job import Bucket
from easyanim_server.domain.model import Capabilities
from easyanim_server.domain.placement import PlacementSetting

MAX_PORT = 65535

SOCKET_SCHEMES = {"unix": "unix:/run/easyanim.sock", "unix-abstract": "unix-abstract:easyanim"}
"""Schemes of addresses on this machine, each with an example; the client takes the same."""


class Settings(BaseSettings):
    """How the server runs. Environment variables are `EASYANIM_` plus a field's name in upper case."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,  # compose files pass empty variables for what is left out
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )

    found_by_tuning: ClassVar[Mapping[str, str]] = {}
    """What stands below all other sources; see `load`."""

    model: str = DEFAULT_MODEL
    """What to serve: a Hugging Face id, modelscope:ID, a local folder, builtin:demo, builtin:tiny, or synthetic: with
    7b, 12b, v5-7b or v5-12b behind it."""
    revision: str | None = None
    """Branch, tag or commit of a Hugging Face id, branch or tag of ModelScope's."""
    listen: str = "127.0.0.1:50051"
    """Address and port of the gRPC server, port 0 takes a free one; or unix:PATH, or unix-abstract:NAME."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda or cuda:N."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Compute type of the model; auto is float32 on the CPU, bfloat16 on CUDA, and float16 on cards without that."""
    attention_mode: Literal["original", "diffusers"] = "original"
    """original runs the network as it was trained; diffusers repeats its port, which differs, for comparison."""
    backend: Backend = Backend.AUTO
    """How the transformer's blocks run; auto is inductor on CUDA and eager on the CPU."""
    precision: Precision = Precision.BF16
    """fp8 computes the large products in 8 bits on cards that can; bf16 leaves them in the compute type."""
    placement: PlacementSetting = PlacementSetting.AUTO
    """Where weights are kept: full (the card), model_cpu_offload, group_offload, sequential_cpu_offload, the first two
    with _and_qfloat8 for 8-bit weights, or auto, the fastest in which every bucket fits."""
    vae_tiling: Tiling = Tiling.AUTO
    """Whether the VAE works on overlapping tiles, which changes pixels; auto does where no bucket fits otherwise."""
    vae_slicing: Literal["auto", "on", "off"] = "auto"
    """Whether the VAE takes videos of a batch one by one; of no effect on the server's batches of one; auto is off."""
    pinned_memory_gib: float | None = Field(default=None, ge=0.0)
    """Most host memory to lock for copies to the device, which are slower without; unset means half of it."""
    vram_limit_gib: float | None = Field(default=None, gt=0.0)
    """Most device memory to take, for a card that is shared; unset means all that is free."""
    attention: str = "auto"
    """The attention kernel; auto measures all that are installed, for every bucket. Others, where they can run, are
    torch, math, convolution, efficient, flash, cudnn, fa4, fa4-bounded, fa3, fa2 and sage."""
    guidance_batch: Literal["auto", "1", "2"] = "auto"
    """Predictions made at once where guidance needs two; auto measures on CUDA and is 1 on the CPU."""
    tuned: Path | None = None
    """A file of `easyanim-server tune`, whose settings stand below all others; refused on another card or model."""
    cache_dir: Path | None = None
    """Where compiled code is kept across restarts; unset means $XDG_CACHE_HOME/easyanim."""
    buckets: Annotated[tuple[Bucket, ...], NoDecode] = ()
    """Sizes to serve, HxW or HxWxF, separated by commas; empty means the model's own list."""
    noise_augmentation: float | None = Field(default=None, ge=0.0, le=1.0)
    """Noise on the start picture before it is encoded, in units of its range; unset means what the model was trained
    with."""
    default_profile: Literal["exact", "balanced", "fast", "draft"] = "exact"
    """What requests get that name no profile; all but exact trade quality for time."""
    cache_coefficients: Path | None = None
    """A file that fit-cache wrote, for the step cache; unset means the published numbers of the model's shape."""
    queue_size: int = Field(default=8, ge=1, le=1024)
    """Jobs that may wait; the next one is refused with RESOURCE_EXHAUSTED."""
    job_attempts: int = Field(default=2, ge=1, le=10)
    """How often a job is begun in all when the worker process dies under it; then it fails with WORKER_LOST, since
    it may be what kills them. 1 fails it at the first time."""
    cancel_seconds: float = Field(default=120.0, gt=0.0)
    """How long a worker may take to leave a job whose caller has left, or ten of the job's steps where that is longer;
    then it counts as stuck, is killed and started anew."""
    stall_seconds: float = Field(default=600.0, gt=0.0)
    """How long nothing may be heard of a worker in a job, or ten of the job's steps where that is longer; then it
    counts as stuck as well. The job is begun anew, see `job_attempts`; inf waits for ever."""
    max_request_bytes: int = Field(default=32 * 2**20, ge=64 * 2**10, le=2**31 - 1)
    """Largest request message; gRPC itself refuses a larger one. Each is copied on the event loop, so that large ones
    hold up other callers; the default is meant for two 4K pictures as PNG."""
    max_pending_bytes: int | None = Field(default=None, ge=64 * 2**10)
    """Memory for requests that are no jobs yet; more are refused with RESOURCE_EXHAUSTED. A message counts as
    max_request_bytes until it has arrived. Unset means twice max_request_bytes."""
    receive_seconds: float = Field(default=60.0, gt=0.0)
    """How long a request may take to arrive; a few seconds while others wait for its memory."""
    max_connections: int = Field(default=512, ge=1)
    """Connections at once, or fewer where the limit of open files (ulimit -n) says so; others are closed at once."""
    max_connection_calls: int | None = Field(default=None, ge=1)
    """Calls at once on one connection; clients hold back others. Unset means queue_size and 64 more."""
    connection_idle_seconds: float = Field(default=300.0, gt=0.0)
    """After how long a connection without calls is closed; clients open another when they need one."""
    connection_age_seconds: float = Field(default=3600.0, gt=0.0)
    """After how long a connection gets no new calls, so that clients spread over servers anew; the calls that it has
    are finished."""
    max_image_pixels: int = Field(default=50_000_000, ge=256)
    """Largest picture, width times height, checked before it is decoded."""
    picture_decoders: int = Field(default=2, ge=1, le=64)
    """Most processes that decode pictures, begun when they are needed; with two a large picture does not hold up the
    others. Each may take 512 MiB and 28 bytes a pixel of `max_image_pixels`, which few pictures come near."""
    max_prompt_chars: int = Field(default=4000, ge=1)
    """Longest prompt and negative prompt."""
    heartbeat_seconds: float = Field(default=5.0, gt=0.0, le=5.0)
    """Longest silence on a stream."""
    drain_seconds: float = Field(default=900.0, ge=0.0)
    """After SIGTERM or SIGHUP, how long running and waiting jobs may take to finish, and their callers to read them."""
    result_caller_bytes: int = Field(default=2**30, ge=2**20)
    """Most bytes of files that are kept for one caller (an address) until it reads them; the largest file, too."""
    result_total_bytes: int = Field(default=4 * 2**30, ge=2**20)
    """The same for all callers together. Where one is exceeded, the file that was not read for longest is dropped."""
    result_unread_seconds: float = Field(default=300.0, gt=0.0)
    """How long a caller may read nothing of a file that waits for it before the file is dropped; inf is for ever."""
    disk_reserve_bytes: int = Field(default=256 * 2**20, ge=0)
    """Free bytes of the folder for temporary files below which no new job is taken, or a quarter of a smaller disk."""
    idle_stall_seconds: float = Field(default=30.0, gt=0.0)
    """How long a worker that waits for a job may give no sign of life, before it is killed and started anew; inf
    waits for ever."""
    start_timeout_seconds: float = Field(default=3600.0, gt=0.0)
    """How long a worker may take to load and warm up before it is started again."""
    cpu_threads: int = Field(default=0, ge=0)
    """Threads of one operation on the CPU; 0 leaves it to torch."""
    reflection: bool = True
    """Whether grpcurl and the like may ask for the contract."""
    metrics_listen: str = ""
    """Address and port of Prometheus metrics over HTTP, such as 127.0.0.1:9464; empty means none."""
    otlp_endpoint: str = ""
    """OpenTelemetry collector for traces, over OTLP and gRPC, such as http://localhost:4317; empty means none."""
    log_format: Literal["console", "json"] = "console"
    """console for people, json for collectors."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is logged."""

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: Any, info: ValidationInfo) -> Any:
        # As a path it would be the working directory.
        unset = value == "" and cls.model_fields[str(info.field_name)].default is None
        return None if unset else value

    @field_validator("model")
    @classmethod
    def _resolve_model(cls, value: str) -> str:
        # As articles name the authors' models; a folder of that name goes before.
        return value if Path(value).exists() else published.resolve(value)

    @field_validator("buckets", mode="before")
    @classmethod
    def _parse_buckets(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            value = [part for part in value.replace(" ", "").split(",") if part]
        if not isinstance(value, (list, tuple)):
            raise ValueError("must be text or a list, such as 384x672,512x512x25")
        model = info.data.get("model", DEFAULT_MODEL)
        parsed = [item if isinstance(item, Bucket) else catalog.parse_bucket(str(item), model) for item in value]
        twice = {str(item) for item in parsed if parsed.count(item) > 1}
        if twice:
            raise ValueError(f"named more than once: {', '.join(sorted(twice))}")
        return tuple(parsed)

    @field_validator("listen", "metrics_listen")
    @classmethod
    def _check_address(cls, value: str, info: ValidationInfo) -> str:
        # What is below would take 70000 for 4464, and a bare port for one of all addresses.
        _, colon, port = value.rpartition(":")
        scheme, _, place = value.partition(":")
        if info.field_name == "listen" and scheme in SOCKET_SCHEMES:
            if not place.strip("/"):
                raise ValueError(f"must name a socket, such as {SOCKET_SCHEMES[scheme]}")
            return value
        if info.field_name != "listen" and not value:
            return value
        if not colon or not port.isdecimal() or int(port) > MAX_PORT:
            raise ValueError(f"must be HOST:PORT with a port from 0 to {MAX_PORT}, such as 127.0.0.1:50051")
        return value

    @field_validator("max_pending_bytes")
    @classmethod
    def _check_pending(cls, value: int | None, info: ValidationInfo) -> int | None:
        largest = info.data.get("max_request_bytes")  # none where that is wrong itself
        if value is not None and largest is not None and value < largest:
            raise ValueError(f"must be at least max_request_bytes, which is {largest}")
        return value

    @field_validator("otlp_endpoint")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        # The exporter takes anything, and tells of what it cannot reach by retrying for ever.
        try:
            parts = urlsplit(value)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is none
            usable = False
        if value and not usable:
            raise ValueError("must be http://HOST:PORT, or https for TLS, such as http://localhost:4317")
        return value

    @property
    def catalogue(self) -> tuple[Bucket, ...]:
        """The buckets to serve, in order of preference, as far as they are known before the model is loaded."""
        return self.buckets_of(self.expected)

    def buckets_of(self, capabilities: Capabilities) -> tuple[Bucket, ...]:
        """The buckets to serve of a model, in order of preference."""
        return self.buckets or capabilities.defaults.buckets

    @property
    def expected(self) -> Capabilities:
        """What the model can be asked for as far as its name and its own folder say, before it is loaded.

        A worker that is up knows better, of a downloaded model too: see `WorkerInfo.capabilities`.

        Raises:
            ConfigurationError: the folder's `easyanim.json` is damaged.
        """
        return modeldefaults.expected(self.model)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags win over the environment, which wins over the file named by `load`, which wins over a tuning."""
        file = TomlFile(settings_cls, toml_file=settings_cls.model_config.get("toml_file"))
        tuned = InitSettingsSource(settings_cls, dict(getattr(settings_cls, "found_by_tuning", {})))
        return init_settings, env_settings, file, tuned

    @classmethod
    def load(cls, flags: dict[str, Any] | None = None, file: Path | None = None) -> Settings:
        """Read flags, environment and `file`, and then the tuning file if one of these names it.

        Raises:
            ConfigurationError: a value is not allowed, a name is not known, a file cannot be read, or the tuning was
                measured with another model. Says where each wrong value comes from, one a line.
        """
        unknown = unknown_environment(os.environ, cls.model_fields)
        if unknown:
            known = [ENV_PREFIX + name.upper() for name in cls.model_fields]
            raise ConfigurationError(unknown_names({name: f"environment variable {name}" for name in unknown}, known))
        if file is not None and not file.is_file():
            raise ConfigurationError(f"settings file {str(file)!r} is not a file")

        loaded = cls._read(flags or {}, file, {})
        if loaded.tuned is not None:
            found = tuning.read(loaded.tuned)
            loaded = cls._read(flags or {}, file, found.settings)
            found.require_model(loaded.model, loaded.tuned or Path())
        return cls.model_construct(**dict(loaded))

    @classmethod
    def _read(cls, flags: dict[str, Any], file: Path | None, tuned: Mapping[str, str]) -> Settings:
        class FromFiles(cls):  # type: ignore[valid-type, misc]
            model_config = SettingsConfigDict(toml_file=file)
            found_by_tuning = tuned

        try:
            read: Settings = FromFiles(**flags)
        except ValidationError as error:
            in_file = TomlFile(cls, toml_file=file).toml_data if file else {}
            raise ConfigurationError(sentences(error, flags, file, in_file, cls.model_fields)) from error
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"settings file {str(file)!r}: {error}") from error
        return read
