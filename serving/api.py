"""What goes over the wire: requests and answers of the service, as types.

Importing this module loads no heavy library: the client and the command use it too.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from fourshot.pipeline.rows.fields import Given
from fourshot.pipeline.selective import Abstained, Refusal

ASKED_PATHS = ("/v1/classify/", "/v1/generate/")  # a task's name follows
HEALTH_PATHS = ("/health", "/ping")  # vLLM's own, or those of the server of students alone
WRITES = "writes_texts"  # type of the error where a task without labels is asked for one
OF_TEXTS = (400, 413)  # what a service answers where a text is too long, or several are too many
DEADLINE = "X-Deadline-Ms"  # header of a request: milliseconds from its arrival to its answer, at most


Method = Literal["adapter", "student", "icl"]


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The fields that OpenAI's clients and gateways send whatever they ask for.

    None of them can change an answer here, so they are accepted, with any value, and ignored.
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
    """``POST /v1/classify/{task}``."""

    input: str | dict[str, str] | list[str | dict[str, str]]  # one text or many; objects for inputs of several fields
    method: Method | None = None  # None: the pinned or newer one of adapter and student, in context where there is none
    # What is not answered (`pipeline.selective.Refusal`): such texts keep their probabilities and get no label.
    abstain_below: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    coverage: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    none_of_these: bool = False

    @property
    def inputs(self) -> list[Given]:
        return list(self.input) if isinstance(self.input, list) else [self.input]

    @property
    def refusal(self) -> Refusal:
        """Raises InputError where two of its fields exclude each other."""
        return Refusal(abstain_below=self.abstain_below, coverage=self.coverage, none_of_these=self.none_of_these)


class GenerateRequest(_Request, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """``POST /v1/generate/{task}``."""

    input: str | list[str]  # one or many
    method: Method | None = None  # students are all that writes

    @property
    def inputs(self) -> list[str]:
        return list(self.input) if isinstance(self.input, list) else [self.input]


class Classified(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer for one text."""

    label: str | None  # its name, as the data says it; null where the request asked for none
    probability: float  # of the likeliest label, among the labels
    probabilities: dict[str, float]  # of every label, in the task's order; sums to one
    prompt_tokens: int
    cached_tokens: int  # of these, answered by the prefix cache
    queue_ms: float  # from the request's arrival until the model began with the text
    model_ms: float  # in the model
    abstained: Abstained = ""  # why there is no label; left out where there is one
    cut_words: int = 0  # of the text, that were not read; left out where all were


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the texts of a request."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    total_tokens: int  # prompt and completion


class ClassifyResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a `ClassifyRequest`: one result per text, in their order."""

    task: str
    method: Method
    adapter: str  # content-hashed name of the adapter or student that answered; "" in context
    results: list[Classified]
    usage: Usage
    total_ms: float  # from arrival to answer, measured in the server


class Generated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was written for one input."""

    text: str
    finish_reason: Literal["stop", "length"]  # it ended by itself, or was cut at the most tokens that it may have
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float  # from the request's arrival until the model began with the input
    model_ms: float  # in the model, with those that were written together
    cut_input: bool = False  # the end of the input was not read; left out where all was


class GenerateResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a `GenerateRequest`: one result per input, in their order."""

    task: str
    method: Method
    student: str  # content-hashed name of who wrote
    results: list[Generated]
    usage: Usage
    total_ms: float  # from arrival to answer, measured in the server


class TaskInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One task that is served."""

    task: str
    labels: list[str]
    adapter: str  # the version that answers now; "" where the task is answered in context
    versions: list[str]  # all that lie in the folder, the newest first
    pinned: bool
    methods: list[Method]  # the usual one first
    student: str = ""  # what answers with the method student; "" where the task has none
    teacher: str = ""  # who taught it
    requests: int = 0  # since the server started, all methods
    in_flight: int = 0  # texts that wait or are in the model
    fields: list[str] | UnsetType = UNSET  # of an input; left out where it is a text
    kind: Literal["generation"] | UnsetType = UNSET  # it is asked by ``/v1/generate``; left out where there are labels


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Something in the adapters' folder that is not served."""

    path: str  # relative to the folder
    reason: str


class TaskList(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /v1/tasks``; ``refused`` only where asked for with ``?all=1``."""

    base_model: str
    tasks: list[TaskInfo]
    refused: list[Refused] = []


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What an error says, in the shape of OpenAI's."""

    message: str
    type: str
    code: int


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer of 400 and above."""

    error: Fault
