import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FitPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FIT_POLICY_UNSPECIFIED: _ClassVar[FitPolicy]
    FIT_POLICY_CROP: _ClassVar[FitPolicy]
    FIT_POLICY_PAD: _ClassVar[FitPolicy]
    FIT_POLICY_STRETCH: _ClassVar[FitPolicy]

class Conditioning(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONDITIONING_UNSPECIFIED: _ClassVar[Conditioning]
    CONDITIONING_TEXT: _ClassVar[Conditioning]
    CONDITIONING_START: _ClassVar[Conditioning]
    CONDITIONING_START_END: _ClassVar[Conditioning]

class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PHASE_UNSPECIFIED: _ClassVar[Phase]
    PHASE_TEXT_ENCODE: _ClassVar[Phase]
    PHASE_IMAGE_ENCODE: _ClassVar[Phase]
    PHASE_DENOISE: _ClassVar[Phase]
    PHASE_DECODE: _ClassVar[Phase]

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    STATE_STARTING: _ClassVar[State]
    STATE_SERVING: _ClassVar[State]
    STATE_DRAINING: _ClassVar[State]
FIT_POLICY_UNSPECIFIED: FitPolicy
FIT_POLICY_CROP: FitPolicy
FIT_POLICY_PAD: FitPolicy
FIT_POLICY_STRETCH: FitPolicy
CONDITIONING_UNSPECIFIED: Conditioning
CONDITIONING_TEXT: Conditioning
CONDITIONING_START: Conditioning
CONDITIONING_START_END: Conditioning
PHASE_UNSPECIFIED: Phase
PHASE_TEXT_ENCODE: Phase
PHASE_IMAGE_ENCODE: Phase
PHASE_DENOISE: Phase
PHASE_DECODE: Phase
STATE_UNSPECIFIED: State
STATE_STARTING: State
STATE_SERVING: State
STATE_DRAINING: State

class GenerateRequest(_message.Message):
    __slots__ = ("start_image", "end_image", "prompt", "negative_prompt", "bucket", "aspect_ratio", "frame_count", "fit_policy", "step_count", "guidance_scale", "seed", "frame_rate_fps", "output_mime_type", "embed_prompt", "profile", "acceleration", "background_color", "guidance_rescale")
    START_IMAGE_FIELD_NUMBER: _ClassVar[int]
    END_IMAGE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    ASPECT_RATIO_FIELD_NUMBER: _ClassVar[int]
    FRAME_COUNT_FIELD_NUMBER: _ClassVar[int]
    FIT_POLICY_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FRAME_RATE_FPS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_MIME_TYPE_FIELD_NUMBER: _ClassVar[int]
    EMBED_PROMPT_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    ACCELERATION_FIELD_NUMBER: _ClassVar[int]
    BACKGROUND_COLOR_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_RESCALE_FIELD_NUMBER: _ClassVar[int]
    start_image: bytes
    end_image: bytes
    prompt: str
    negative_prompt: str
    bucket: str
    aspect_ratio: float
    frame_count: int
    fit_policy: FitPolicy
    step_count: int
    guidance_scale: float
    seed: int
    frame_rate_fps: int
    output_mime_type: str
    embed_prompt: bool
    profile: str
    acceleration: Acceleration
    background_color: str
    guidance_rescale: float
    def __init__(self, start_image: _Optional[bytes] = ..., end_image: _Optional[bytes] = ..., prompt: _Optional[str] = ..., negative_prompt: _Optional[str] = ..., bucket: _Optional[str] = ..., aspect_ratio: _Optional[float] = ..., frame_count: _Optional[int] = ..., fit_policy: _Optional[_Union[FitPolicy, str]] = ..., step_count: _Optional[int] = ..., guidance_scale: _Optional[float] = ..., seed: _Optional[int] = ..., frame_rate_fps: _Optional[int] = ..., output_mime_type: _Optional[str] = ..., embed_prompt: bool = ..., profile: _Optional[str] = ..., acceleration: _Optional[_Union[Acceleration, _Mapping]] = ..., background_color: _Optional[str] = ..., guidance_rescale: _Optional[float] = ...) -> None: ...

class Acceleration(_message.Message):
    __slots__ = ("solver", "cache_threshold", "guidance_start", "guidance_end")
    SOLVER_FIELD_NUMBER: _ClassVar[int]
    CACHE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_START_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_END_FIELD_NUMBER: _ClassVar[int]
    solver: str
    cache_threshold: float
    guidance_start: float
    guidance_end: float
    def __init__(self, solver: _Optional[str] = ..., cache_threshold: _Optional[float] = ..., guidance_start: _Optional[float] = ..., guidance_end: _Optional[float] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("accepted", "queued", "progress", "chunk", "completed", "restarted")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    RESTARTED_FIELD_NUMBER: _ClassVar[int]
    accepted: Accepted
    queued: Queued
    progress: Progress
    chunk: Chunk
    completed: Completed
    restarted: Restarted
    def __init__(self, accepted: _Optional[_Union[Accepted, _Mapping]] = ..., queued: _Optional[_Union[Queued, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., completed: _Optional[_Union[Completed, _Mapping]] = ..., restarted: _Optional[_Union[Restarted, _Mapping]] = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("job_id", "parameters", "prompt_token_count", "prompt_truncated", "prompt_warnings")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    PROMPT_WARNINGS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    parameters: Parameters
    prompt_token_count: int
    prompt_truncated: bool
    prompt_warnings: _containers.RepeatedCompositeFieldContainer[PromptWarning]
    def __init__(self, job_id: _Optional[str] = ..., parameters: _Optional[_Union[Parameters, _Mapping]] = ..., prompt_token_count: _Optional[int] = ..., prompt_truncated: bool = ..., prompt_warnings: _Optional[_Iterable[_Union[PromptWarning, _Mapping]]] = ...) -> None: ...

class PromptWarning(_message.Message):
    __slots__ = ("rule", "message", "excerpt")
    RULE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    EXCERPT_FIELD_NUMBER: _ClassVar[int]
    rule: str
    message: str
    excerpt: str
    def __init__(self, rule: _Optional[str] = ..., message: _Optional[str] = ..., excerpt: _Optional[str] = ...) -> None: ...

class LintPromptRequest(_message.Message):
    __slots__ = ("prompt", "negative_prompt")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    negative_prompt: str
    def __init__(self, prompt: _Optional[str] = ..., negative_prompt: _Optional[str] = ...) -> None: ...

class LintPromptResponse(_message.Message):
    __slots__ = ("prompt_token_count", "max_token_count", "prompt_truncated", "prompt_warnings", "negative_prompt", "tokenizers")
    PROMPT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    PROMPT_WARNINGS_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    TOKENIZERS_FIELD_NUMBER: _ClassVar[int]
    prompt_token_count: int
    max_token_count: int
    prompt_truncated: bool
    prompt_warnings: _containers.RepeatedCompositeFieldContainer[PromptWarning]
    negative_prompt: str
    tokenizers: _containers.RepeatedCompositeFieldContainer[Tokenizer]
    def __init__(self, prompt_token_count: _Optional[int] = ..., max_token_count: _Optional[int] = ..., prompt_truncated: bool = ..., prompt_warnings: _Optional[_Iterable[_Union[PromptWarning, _Mapping]]] = ..., negative_prompt: _Optional[str] = ..., tokenizers: _Optional[_Iterable[_Union[Tokenizer, _Mapping]]] = ...) -> None: ...

class Tokenizer(_message.Message):
    __slots__ = ("name", "max_token_count", "token_count")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    name: str
    max_token_count: int
    token_count: int
    def __init__(self, name: _Optional[str] = ..., max_token_count: _Optional[int] = ..., token_count: _Optional[int] = ...) -> None: ...

class Parameters(_message.Message):
    __slots__ = ("prompt", "negative_prompt", "bucket", "width_px", "height_px", "frame_count", "step_count", "guidance_scale", "seed", "frame_rate_fps", "output_mime_type", "fit_policy", "conditioning", "profile", "solver", "cache_threshold", "guidance_start", "guidance_end", "background_color", "guidance_rescale", "task")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    WIDTH_PX_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_PX_FIELD_NUMBER: _ClassVar[int]
    FRAME_COUNT_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FRAME_RATE_FPS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_MIME_TYPE_FIELD_NUMBER: _ClassVar[int]
    FIT_POLICY_FIELD_NUMBER: _ClassVar[int]
    CONDITIONING_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    SOLVER_FIELD_NUMBER: _ClassVar[int]
    CACHE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_START_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_END_FIELD_NUMBER: _ClassVar[int]
    BACKGROUND_COLOR_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_RESCALE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    negative_prompt: str
    bucket: str
    width_px: int
    height_px: int
    frame_count: int
    step_count: int
    guidance_scale: float
    seed: int
    frame_rate_fps: int
    output_mime_type: str
    fit_policy: FitPolicy
    conditioning: Conditioning
    profile: str
    solver: str
    cache_threshold: float
    guidance_start: float
    guidance_end: float
    background_color: str
    guidance_rescale: float
    task: str
    def __init__(self, prompt: _Optional[str] = ..., negative_prompt: _Optional[str] = ..., bucket: _Optional[str] = ..., width_px: _Optional[int] = ..., height_px: _Optional[int] = ..., frame_count: _Optional[int] = ..., step_count: _Optional[int] = ..., guidance_scale: _Optional[float] = ..., seed: _Optional[int] = ..., frame_rate_fps: _Optional[int] = ..., output_mime_type: _Optional[str] = ..., fit_policy: _Optional[_Union[FitPolicy, str]] = ..., conditioning: _Optional[_Union[Conditioning, str]] = ..., profile: _Optional[str] = ..., solver: _Optional[str] = ..., cache_threshold: _Optional[float] = ..., guidance_start: _Optional[float] = ..., guidance_end: _Optional[float] = ..., background_color: _Optional[str] = ..., guidance_rescale: _Optional[float] = ..., task: _Optional[str] = ...) -> None: ...

class Queued(_message.Message):
    __slots__ = ("jobs_ahead_count", "eta_duration")
    JOBS_AHEAD_COUNT_FIELD_NUMBER: _ClassVar[int]
    ETA_DURATION_FIELD_NUMBER: _ClassVar[int]
    jobs_ahead_count: int
    eta_duration: _duration_pb2.Duration
    def __init__(self, jobs_ahead_count: _Optional[int] = ..., eta_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("phase", "completed_count", "total_count", "unit_duration", "elapsed_duration", "eta_duration", "reused_step_count")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNIT_DURATION_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_DURATION_FIELD_NUMBER: _ClassVar[int]
    ETA_DURATION_FIELD_NUMBER: _ClassVar[int]
    REUSED_STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    phase: Phase
    completed_count: int
    total_count: int
    unit_duration: _duration_pb2.Duration
    elapsed_duration: _duration_pb2.Duration
    eta_duration: _duration_pb2.Duration
    reused_step_count: int
    def __init__(self, phase: _Optional[_Union[Phase, str]] = ..., completed_count: _Optional[int] = ..., total_count: _Optional[int] = ..., unit_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., elapsed_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., eta_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., reused_step_count: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("offset_bytes", "data")
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset_bytes: int
    data: bytes
    def __init__(self, offset_bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Restarted(_message.Message):
    __slots__ = ("attempt", "reason", "detail")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    reason: str
    detail: str
    def __init__(self, attempt: _Optional[int] = ..., reason: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class Completed(_message.Message):
    __slots__ = ("size_bytes", "sha256", "timings", "peak_device_memory_bytes", "receipt")
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    PEAK_DEVICE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    size_bytes: int
    sha256: bytes
    timings: Timings
    peak_device_memory_bytes: int
    receipt: Receipt
    def __init__(self, size_bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., peak_device_memory_bytes: _Optional[int] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue_duration", "text_encode_duration", "image_encode_duration", "denoise_duration", "decode_duration", "total_duration")
    QUEUE_DURATION_FIELD_NUMBER: _ClassVar[int]
    TEXT_ENCODE_DURATION_FIELD_NUMBER: _ClassVar[int]
    IMAGE_ENCODE_DURATION_FIELD_NUMBER: _ClassVar[int]
    DENOISE_DURATION_FIELD_NUMBER: _ClassVar[int]
    DECODE_DURATION_FIELD_NUMBER: _ClassVar[int]
    TOTAL_DURATION_FIELD_NUMBER: _ClassVar[int]
    queue_duration: _duration_pb2.Duration
    text_encode_duration: _duration_pb2.Duration
    image_encode_duration: _duration_pb2.Duration
    denoise_duration: _duration_pb2.Duration
    decode_duration: _duration_pb2.Duration
    total_duration: _duration_pb2.Duration
    def __init__(self, queue_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., text_encode_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., image_encode_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., denoise_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., decode_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., total_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("parameters", "model", "model_fingerprint", "attention_mode", "dtype", "device", "backend", "profile", "versions", "attention", "precision", "placement", "guidance_batch", "latents_sha256", "start_image_sha256", "end_image_sha256", "reused_step_count", "prediction_count", "cache_coefficients")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_MODE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_BATCH_FIELD_NUMBER: _ClassVar[int]
    LATENTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    START_IMAGE_SHA256_FIELD_NUMBER: _ClassVar[int]
    END_IMAGE_SHA256_FIELD_NUMBER: _ClassVar[int]
    REUSED_STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_COUNT_FIELD_NUMBER: _ClassVar[int]
    CACHE_COEFFICIENTS_FIELD_NUMBER: _ClassVar[int]
    parameters: Parameters
    model: str
    model_fingerprint: str
    attention_mode: str
    dtype: str
    device: str
    backend: str
    profile: str
    versions: _containers.ScalarMap[str, str]
    attention: str
    precision: str
    placement: str
    guidance_batch: int
    latents_sha256: str
    start_image_sha256: str
    end_image_sha256: str
    reused_step_count: int
    prediction_count: int
    cache_coefficients: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, parameters: _Optional[_Union[Parameters, _Mapping]] = ..., model: _Optional[str] = ..., model_fingerprint: _Optional[str] = ..., attention_mode: _Optional[str] = ..., dtype: _Optional[str] = ..., device: _Optional[str] = ..., backend: _Optional[str] = ..., profile: _Optional[str] = ..., versions: _Optional[_Mapping[str, str]] = ..., attention: _Optional[str] = ..., precision: _Optional[str] = ..., placement: _Optional[str] = ..., guidance_batch: _Optional[int] = ..., latents_sha256: _Optional[str] = ..., start_image_sha256: _Optional[str] = ..., end_image_sha256: _Optional[str] = ..., reused_step_count: _Optional[int] = ..., prediction_count: _Optional[int] = ..., cache_coefficients: _Optional[_Iterable[float]] = ...) -> None: ...

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("version", "model", "buckets", "limits", "state", "job_count", "state_detail", "placement", "placement_reason", "activity", "device_status", "profiles", "picture_mime_types", "defaults", "tasks", "tokenizers", "solvers")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    JOB_COUNT_FIELD_NUMBER: _ClassVar[int]
    STATE_DETAIL_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_REASON_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    DEVICE_STATUS_FIELD_NUMBER: _ClassVar[int]
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    PICTURE_MIME_TYPES_FIELD_NUMBER: _ClassVar[int]
    DEFAULTS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    TOKENIZERS_FIELD_NUMBER: _ClassVar[int]
    SOLVERS_FIELD_NUMBER: _ClassVar[int]
    version: str
    model: Model
    buckets: _containers.RepeatedCompositeFieldContainer[Bucket]
    limits: Limits
    state: State
    job_count: int
    state_detail: str
    placement: str
    placement_reason: str
    activity: _containers.RepeatedCompositeFieldContainer[Activity]
    device_status: _containers.RepeatedCompositeFieldContainer[DeviceStatus]
    profiles: _containers.RepeatedCompositeFieldContainer[Profile]
    picture_mime_types: _containers.RepeatedScalarFieldContainer[str]
    defaults: Defaults
    tasks: _containers.RepeatedScalarFieldContainer[str]
    tokenizers: _containers.RepeatedCompositeFieldContainer[Tokenizer]
    solvers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[str] = ..., model: _Optional[_Union[Model, _Mapping]] = ..., buckets: _Optional[_Iterable[_Union[Bucket, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., state: _Optional[_Union[State, str]] = ..., job_count: _Optional[int] = ..., state_detail: _Optional[str] = ..., placement: _Optional[str] = ..., placement_reason: _Optional[str] = ..., activity: _Optional[_Iterable[_Union[Activity, _Mapping]]] = ..., device_status: _Optional[_Iterable[_Union[DeviceStatus, _Mapping]]] = ..., profiles: _Optional[_Iterable[_Union[Profile, _Mapping]]] = ..., picture_mime_types: _Optional[_Iterable[str]] = ..., defaults: _Optional[_Union[Defaults, _Mapping]] = ..., tasks: _Optional[_Iterable[str]] = ..., tokenizers: _Optional[_Iterable[_Union[Tokenizer, _Mapping]]] = ..., solvers: _Optional[_Iterable[str]] = ...) -> None: ...

class Defaults(_message.Message):
    __slots__ = ("guidance_scale", "step_count", "bucket", "frame_count")
    GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    FRAME_COUNT_FIELD_NUMBER: _ClassVar[int]
    guidance_scale: float
    step_count: int
    bucket: str
    frame_count: int
    def __init__(self, guidance_scale: _Optional[float] = ..., step_count: _Optional[int] = ..., bucket: _Optional[str] = ..., frame_count: _Optional[int] = ...) -> None: ...

class Profile(_message.Message):
    __slots__ = ("name", "step_count", "acceleration", "is_default")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    ACCELERATION_FIELD_NUMBER: _ClassVar[int]
    IS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    name: str
    step_count: int
    acceleration: Acceleration
    is_default: bool
    def __init__(self, name: _Optional[str] = ..., step_count: _Optional[int] = ..., acceleration: _Optional[_Union[Acceleration, _Mapping]] = ..., is_default: bool = ...) -> None: ...

class Activity(_message.Message):
    __slots__ = ("job_id", "bucket", "frame_count", "step_count", "jobs_ahead_count", "phase", "completed_count", "total_count", "unit_duration", "elapsed_duration", "eta_duration")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    FRAME_COUNT_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    JOBS_AHEAD_COUNT_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNIT_DURATION_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_DURATION_FIELD_NUMBER: _ClassVar[int]
    ETA_DURATION_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    bucket: str
    frame_count: int
    step_count: int
    jobs_ahead_count: int
    phase: Phase
    completed_count: int
    total_count: int
    unit_duration: _duration_pb2.Duration
    elapsed_duration: _duration_pb2.Duration
    eta_duration: _duration_pb2.Duration
    def __init__(self, job_id: _Optional[str] = ..., bucket: _Optional[str] = ..., frame_count: _Optional[int] = ..., step_count: _Optional[int] = ..., jobs_ahead_count: _Optional[int] = ..., phase: _Optional[_Union[Phase, str]] = ..., completed_count: _Optional[int] = ..., total_count: _Optional[int] = ..., unit_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., elapsed_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., eta_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class DeviceStatus(_message.Message):
    __slots__ = ("name", "memory_used_bytes", "memory_total_bytes", "utilization_ratio", "temperature_celsius", "power_watts")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    UTILIZATION_RATIO_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_CELSIUS_FIELD_NUMBER: _ClassVar[int]
    POWER_WATTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    memory_used_bytes: int
    memory_total_bytes: int
    utilization_ratio: float
    temperature_celsius: float
    power_watts: float
    def __init__(self, name: _Optional[str] = ..., memory_used_bytes: _Optional[int] = ..., memory_total_bytes: _Optional[int] = ..., utilization_ratio: _Optional[float] = ..., temperature_celsius: _Optional[float] = ..., power_watts: _Optional[float] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "fingerprint", "transformer_parameter_count", "attention_mode", "dtype", "device", "family")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TRANSFORMER_PARAMETER_COUNT_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_MODE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    name: str
    fingerprint: str
    transformer_parameter_count: int
    attention_mode: str
    dtype: str
    device: str
    family: str
    def __init__(self, name: _Optional[str] = ..., fingerprint: _Optional[str] = ..., transformer_parameter_count: _Optional[int] = ..., attention_mode: _Optional[str] = ..., dtype: _Optional[str] = ..., device: _Optional[str] = ..., family: _Optional[str] = ...) -> None: ...

class Bucket(_message.Message):
    __slots__ = ("name", "width_px", "height_px", "frame_counts", "plans")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WIDTH_PX_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_PX_FIELD_NUMBER: _ClassVar[int]
    FRAME_COUNTS_FIELD_NUMBER: _ClassVar[int]
    PLANS_FIELD_NUMBER: _ClassVar[int]
    name: str
    width_px: int
    height_px: int
    frame_counts: _containers.RepeatedScalarFieldContainer[int]
    plans: _containers.RepeatedCompositeFieldContainer[Plan]
    def __init__(self, name: _Optional[str] = ..., width_px: _Optional[int] = ..., height_px: _Optional[int] = ..., frame_counts: _Optional[_Iterable[int]] = ..., plans: _Optional[_Iterable[_Union[Plan, _Mapping]]] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("frame_count", "backend", "precision", "attention", "build_duration", "prediction_duration", "relative_l2", "rounding_l2", "fallback_reason", "placement", "predicted_peak_device_memory_bytes", "measured_peak_device_memory_bytes", "vae_tiled", "cosine_similarity", "guidance_batch")
    FRAME_COUNT_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    BUILD_DURATION_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_DURATION_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_L2_FIELD_NUMBER: _ClassVar[int]
    ROUNDING_L2_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_REASON_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_PEAK_DEVICE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEASURED_PEAK_DEVICE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    VAE_TILED_FIELD_NUMBER: _ClassVar[int]
    COSINE_SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_BATCH_FIELD_NUMBER: _ClassVar[int]
    frame_count: int
    backend: str
    precision: str
    attention: str
    build_duration: _duration_pb2.Duration
    prediction_duration: _duration_pb2.Duration
    relative_l2: float
    rounding_l2: float
    fallback_reason: str
    placement: str
    predicted_peak_device_memory_bytes: int
    measured_peak_device_memory_bytes: int
    vae_tiled: bool
    cosine_similarity: float
    guidance_batch: int
    def __init__(self, frame_count: _Optional[int] = ..., backend: _Optional[str] = ..., precision: _Optional[str] = ..., attention: _Optional[str] = ..., build_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., prediction_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., relative_l2: _Optional[float] = ..., rounding_l2: _Optional[float] = ..., fallback_reason: _Optional[str] = ..., placement: _Optional[str] = ..., predicted_peak_device_memory_bytes: _Optional[int] = ..., measured_peak_device_memory_bytes: _Optional[int] = ..., vae_tiled: bool = ..., cosine_similarity: _Optional[float] = ..., guidance_batch: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_request_bytes", "max_image_pixels", "max_prompt_chars", "max_step_count", "max_queued_count")
    MAX_REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPT_CHARS_FIELD_NUMBER: _ClassVar[int]
    MAX_STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_COUNT_FIELD_NUMBER: _ClassVar[int]
    max_request_bytes: int
    max_image_pixels: int
    max_prompt_chars: int
    max_step_count: int
    max_queued_count: int
    def __init__(self, max_request_bytes: _Optional[int] = ..., max_image_pixels: _Optional[int] = ..., max_prompt_chars: _Optional[int] = ..., max_step_count: _Optional[int] = ..., max_queued_count: _Optional[int] = ...) -> None: ...
