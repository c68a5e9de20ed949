"""Types of the service's HTTP API: its requests and responses.

Importing this module loads no heavy library: the client and the command use it too.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from fourshot.pipeline.rows.fields import Given
from fourshot.pipeline.selective import Abstained, Refusal

TASK_PATHS = ("/v1/classify/", "/v1/generate/")  # followed by a task's name
HEALTH_PATHS = ("/health", "/ping")  # vLLM's own, or those of the server without vLLM
WRITES = "writes_texts"  # error type of a classification request to a task without labels
TEXT_ERROR_CODES = (400, 413, 500)  # status codes for texts that are too long or too many, or fail the model
FEW_TEXTS = 8  # that may all be refused by chance
DEADLINE = "X-Deadline-Ms"  # request header: milliseconds from the request's arrival to its response, at most


Method = Literal["adapter", "student", "icl"]


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The fields that OpenAI's clients and gateways add to every request.

    None of them can change a response here, so they are accepted with any value, and ignored.
    """

    model: Any = UNSET
    user: Any = UNSET
    stream: Any = UNSET
    stream_options: Any = UNSET
    encoding_format: Any = UNSET
    metadata: Any = UNSET
    store: Any = UNSET
    service_tier: Any = UNSET
    safety_identifier: Any = UNSET
    prompt_cache_key: Any = UNSET


class ClassifyRequest(_Request, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Body of ``POST /v1/classify/{task}``."""

    input: str | dict[str, str] | list[str | dict[str, str]]  # one text or many; objects for inputs of several fields
    method: Method | None = None  # None: the pinned or newer one of adapter and student; without either, in context
    # Rules of abstention (`pipeline.selective.Refusal`): a text below them gets no label, but its probabilities.
    abstain_below: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    coverage: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    none_of_these: bool = False

    @property
    def inputs(self) -> list[Given]:
        return list(self.input) if isinstance(self.input, list) else [self.input]

    @property
    def refusal(self) -> Refusal:
        """The request's rules of abstention. Raises InputError if two of its fields exclude each other."""
        return Refusal(abstain_below=self.abstain_below, coverage=self.coverage, none_of_these=self.none_of_these)


class GenerateRequest(_Request, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Body of ``POST /v1/generate/{task}``."""

    input: str | list[str]  # one or many
    method: Method | None = None  # only students generate texts

    @property
    def inputs(self) -> list[str]:
        return list(self.input) if isinstance(self.input, list) else [self.input]


class Classified(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Result for one text."""

    label: str | None  # its name as in the data; null if the service abstained, as requested
    probability: float  # of the most likely label
    probabilities: dict[str, float]  # of every label, in the task's order; sums to one
    prompt_tokens: int
    cached_tokens: int  # of these, served from the prefix cache
    queue_ms: float  # from the request's arrival until the model started on the text
    model_ms: float  # in the model
    abstained: Abstained = ""  # why there is no label; omitted if there is one
    cut_words: int = 0  # words cut from the end of the text; omitted if none were


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the texts of a request."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    total_tokens: int  # prompt and completion


class ClassifyResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Response to a `ClassifyRequest`: one result per text, in their order."""

    task: str
    method: Method
    adapter: str  # name, with a content hash, of the adapter or student that was used; "" in context
    results: list[Classified]
    usage: Usage
    total_ms: float  # from arrival to response, measured in the server


class Generated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Text generated for one input."""

    text: str
    finish_reason: Literal["stop", "length"]  # the text ended by itself, or reached the maximum number of tokens
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float  # from the request's arrival until the model started on the input
    model_ms: float  # in the model, for all texts generated together with this one
    cut_input: bool = False  # the end of the input was cut; omitted if it was not


class GenerateResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Response to a `GenerateRequest`: one result per input, in their order."""

    task: str
    method: Method
    student: str  # name, with a content hash, of the student that was used
    results: list[Generated]
    usage: Usage
    total_ms: float  # from arrival to response, measured in the server


class TaskInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One served task."""

    task: str
    labels: list[str]
    adapter: str  # the version in use; "" if the task is served in context
    versions: list[str]  # all versions in the folder, the newest first
    pinned: bool
    methods: list[Method]  # the default first
    student: str = ""  # the version used for the method student; "" if the task has none
    teacher: str = ""  # the student's teacher
    requests: int = 0  # since the server started, all methods
    in_flight: int = 0  # texts that wait or are in the model
    fields: list[str] | UnsetType = UNSET  # of an input; omitted if inputs are plain texts
    kind: Literal["generation"] | UnsetType = UNSET  # served at ``/v1/generate``; omitted for a task with labels


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Something in the adapters' folder that is not served."""

    path: str  # relative to the folder
    reason: str


class TaskList(msgspec.Struct, frozen=True, kw_only=True):
    """Response to ``GET /v1/tasks``; ``refused`` is filled only with ``?all=1``."""

    base_model: str
    tasks: list[TaskInfo]
    refused: list[Refused] = []


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """An error in OpenAI's format."""

    message: str
    type: str
    code: int


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Body of every response with a status of 400 or above."""

    error: Fault
