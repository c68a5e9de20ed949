"""The `fourshot` command and the public Python API. It composes the packages and computes nothing itself.

    import fourshot

    summary = fourshot.run("support_tickets")
    with fourshot.Classifier(summary.adapter_path) as classifier:
        print(classifier.predict(["I was charged twice"]))

Importing it loads the standard library only; each name below loads its package on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fourshot.api import compare, corpus, run, settings, train
    from fourshot.engine.errors import (
        AdapterError,
        FourshotError,
        InputError,
        ModelNotFoundError,
        RequestError,
        RunFolderError,
        ServiceError,
        ShortRunError,
        SpendingLimitError,
        TaskFileError,
    )
    from fourshot.pipeline.corpus.settings import CorpusSettings
    from fourshot.pipeline.corpus.summary import CorpusSummary
    from fourshot.pipeline.distillation.annotating import AnnotationSummary
    from fourshot.pipeline.distillation.distilled import DistillSummary
    from fourshot.pipeline.events import Event
    from fourshot.pipeline.runs.compare import Comparison
    from fourshot.pipeline.runs.many import TaskOutcome
    from fourshot.pipeline.runs.run import RunSummary
    from fourshot.pipeline.synthesis.settings import PRESETS, RunSettings
    from fourshot.pipeline.task import DataSource, Example, Label, Task
    from fourshot.pipeline.tasks.generation import GenerationTask, PairSource
    from fourshot.pipeline.tasks.task_file import load_any_task, load_task
    from fourshot.pipeline.text_distillation.distilled_text import TextDistillSummary
    from fourshot.pipeline.text_student import Generator, TextStudent
    from fourshot.serving.clients.client import AsyncClient, Client
    from fourshot.serving.clients.local import LocalClassifier as Classifier
    from fourshot.serving.clients.local import Prediction
    from fourshot.serving.clients.remote.settings import RemoteSettings
    from fourshot.teaching import annotate, distill
    from fourshot.text_api import annotate_text, distill_text
    from fourshot.training.students.settings import StudentSettings, TextStudentSettings

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "AdapterError",
    "AnnotationSummary",
    "AsyncClient",
    "Classifier",
    "Client",
    "Comparison",
    "CorpusSettings",
    "CorpusSummary",
    "DataSource",
    "DistillSummary",
    "Event",
    "Example",
    "FourshotError",
    "GenerationTask",
    "Generator",
    "InputError",
    "Label",
    "ModelNotFoundError",
    "PairSource",
    "Prediction",
    "RemoteSettings",
    "RequestError",
    "RunFolderError",
    "RunSettings",
    "RunSummary",
    "ServiceError",
    "ShortRunError",
    "SpendingLimitError",
    "StudentSettings",
    "Task",
    "TaskFileError",
    "TaskOutcome",
    "TextDistillSummary",
    "TextStudent",
    "TextStudentSettings",
    "annotate",
    "annotate_text",
    "compare",
    "corpus",
    "distill",
    "distill_text",
    "load_any_task",
    "load_task",
    "run",
    "settings",
    "train",
]

_HOMES = {  # modules of the names above; the errors are in fourshot.engine.errors
    **dict.fromkeys(("compare", "corpus", "run", "settings", "train"), "fourshot.api"),
    **dict.fromkeys(("annotate", "distill"), "fourshot.teaching"),
    **dict.fromkeys(("DataSource", "Example", "Label", "Task"), "fourshot.pipeline.task"),
    **dict.fromkeys(("PRESETS", "RunSettings"), "fourshot.pipeline.synthesis.settings"),
    **dict.fromkeys(("Classifier", "Prediction"), "fourshot.serving.clients.local"),
    **dict.fromkeys(("AsyncClient", "Client"), "fourshot.serving.clients.client"),
    "AnnotationSummary": "fourshot.pipeline.distillation.annotating",
    "Comparison": "fourshot.pipeline.runs.compare",
    "CorpusSettings": "fourshot.pipeline.corpus.settings",
    "CorpusSummary": "fourshot.pipeline.corpus.summary",
    "DistillSummary": "fourshot.pipeline.distillation.distilled",
    "Event": "fourshot.pipeline.events",
    "RemoteSettings": "fourshot.serving.clients.remote.settings",
    "RunSummary": "fourshot.pipeline.runs.run",
    **dict.fromkeys(("GenerationTask", "PairSource"), "fourshot.pipeline.tasks.generation"),
    "StudentSettings": "fourshot.training.students.settings",
    "TextDistillSummary": "fourshot.pipeline.text_distillation.distilled_text",
    **dict.fromkeys(("Generator", "TextStudent"), "fourshot.pipeline.text_student"),
    "TextStudentSettings": "fourshot.training.students.settings",
    "TaskOutcome": "fourshot.pipeline.runs.many",
    **dict.fromkeys(("annotate_text", "distill_text"), "fourshot.text_api"),
    **dict.fromkeys(("load_any_task", "load_task"), "fourshot.pipeline.tasks.task_file"),
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:  # so that a type checker reports misspelt names

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'fourshot' has no attribute {name!r}")
        home = importlib.import_module(_HOMES.get(name, "fourshot.engine.errors"))
        return getattr(home, "LocalClassifier" if name == "Classifier" else name)
