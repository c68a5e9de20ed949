"""What is asked of a distillation: the settings of a teacher that it trains."""

from typing import Any

import pytest

from fourshot.pipeline.distillation.request import DistillManifest, teacher_settings
from fourshot.pipeline.synthesis.settings import AnnotateSettings, RunSettings
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.training.students.settings import StudentSettings


@pytest.mark.parametrize(
    ("readers", "folds"),
    [({"num_adapters": 3}, 0), ({"num_adapters": 0, "in_context": 1}, 0), ({"num_adapters": 0}, 2)],
)
def test_a_teacher_writes_a_pool_only_where_nobody_else_could_read(readers: dict[str, int], folds: int) -> None:
    settings = RunSettings(annotate=AnnotateSettings(folds=2, **readers))  # type: ignore[arg-type]
    assert teacher_settings(settings, 0).annotate.folds == folds


def test_a_teacher_asks_no_shots_so_a_folder_that_an_earlier_version_began_is_the_same() -> None:
    rest: dict[str, Any] = dict.fromkeys(("model", "teacher", "encoder", "encoder_revision", "unlabelled"), "")
    task = load_task("support_tickets")
    now, then = (
        DistillManifest(
            task=task, settings=teacher_settings(settings, 0), student=StudentSettings(), generate=0, **rest
        ).identity()
        for settings in (RunSettings(), RunSettings().with_targets("agreement"))
    )
    assert now == then
