"""What is asked of a distillation: the settings of a teacher that it trains."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.cli.main import main
from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.errors import InputError
from fourshot.pipeline.distillation.annotators import NamedAnnotator
from fourshot.pipeline.distillation.request import LabelDistillation, teacher_settings
from fourshot.pipeline.rows.text_table import open_texts
from fourshot.pipeline.synthesis.settings import AnnotateSettings, RunSettings, VarietySettings
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.training.students.encoders import resolve_encoder
from tests.pipeline.task_folders import COLD, WARM, rows_of, write_jsonl, write_task


@pytest.mark.parametrize(
    ("annotators", "folds"),
    [({"num_adapters": 3}, 0), ({"num_adapters": 0, "in_context": 1}, 0), ({"num_adapters": 0}, 2)],
)
def test_a_teacher_writes_a_pool_only_where_nobody_else_could_read(annotators: dict[str, int], folds: int) -> None:
    settings = RunSettings(annotate=AnnotateSettings(folds=2, **annotators))  # type: ignore[arg-type]
    assert teacher_settings(settings, 0).annotate.folds == folds


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[..., LabelDistillation]:
    """A distillation of a task with four examples per class."""
    file = write_task(tmp_path)
    write_jsonl(tmp_path / "notes.jsonl", [{"text": "Snow fell."}])
    notes, task = open_texts(tmp_path / "notes.jsonl"), load_task(file)

    def asked(**arguments: Any) -> LabelDistillation:
        return LabelDistillation(task=task, folder=tmp_path / "out", unlabelled=notes, **arguments)

    return asked


def test_a_teacher_learns_as_many_real_examples_as_are_wanted(request_of: Callable[..., LabelDistillation]) -> None:
    def learnt(**arguments: Any) -> list[str]:
        request = request_of(**arguments).with_teacher_settings()
        return [shot.text for shot in request.data().shots(request.settings)]

    assert sorted(learnt(real="all")) == sorted(WARM + COLD) and len(learnt(real="2")) == 4
    assert len(learnt(real="75%")) == 6 and len(learnt(real="1%")) == 2, "of each class at least one"
    assert learnt(real="3") == learnt(settings=RunSettings(k=3)), "a number is that of --shots"


def test_prompts_show_a_few_of_many_real_examples(request_of: Callable[..., LabelDistillation]) -> None:
    shown = RunSettings(variety=VarietySettings(shots_shown=2))
    for arguments, count in (
        ({"real": "all"}, 4),
        ({"real": "5%", "settings": shown}, 2),
        ({"real": "25"}, 0),
        ({"real": "26"}, 4),
        ({"real": "1000", "settings": shown}, 2),
        ({"settings": RunSettings(k=1000)}, 4),
    ):
        assert request_of(**arguments).with_teacher_settings().settings.variety.shots_shown == count


def test_a_class_with_fewer_real_examples_than_are_asked_for_gives_all_of_them(
    request_of: Callable[..., LabelDistillation],
) -> None:
    """Such a command failed, and was advised to give fewer --shots."""
    request = request_of(real="3").with_teacher_settings()
    rows = rows_of(WARM, "warm") + rows_of(COLD[:2], "cold")
    write_jsonl(request.folder.parent / "train.jsonl", rows)
    assert Counter(shot.label for shot in request.data().shots(request.settings)) == {"warm": 3, "cold": 2}
    assert not request.settings.allow_fewer_shots, "the folder is that of --shots 3"
    asked = request_of(settings=RunSettings(k=3)).with_teacher_settings()
    with pytest.raises(InputError, match=r"'cold' has 2.*--shots 2"):
        asked.data().shots(asked.settings)


def test_a_folder_is_of_one_amount_of_real_examples(request_of: Callable[..., LabelDistillation]) -> None:
    base, encoder = resolve_model(None), resolve_encoder(None)

    def identity(**arguments: Any) -> dict[str, Any]:
        return request_of(**arguments).with_teacher_settings().manifest(base, encoder).identity()

    assert identity(real="5%") != identity(real="10%") != identity()
    assert identity(real="4") == identity()
    assert identity(real="100") == identity(settings=RunSettings(k=100))


def test_real_examples_are_refused_where_nobody_would_learn_them(
    request_of: Callable[..., LabelDistillation], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="--real 0: give a number per class, a share"):
        request_of(real="0").check()
    by = NamedAnnotator(name="somebody", task=request_of().task, open=lambda *_: iter)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="trained here; somebody is not"):
        request_of(real="5%", by=by).check()
    command = ["distill", str(tmp_path), "--unlabelled", str(tmp_path / "notes.jsonl")]
    assert main([*command, "--real", "5%", "--shots", "8"]) == 2
    assert "--real 5% and --shots 8 set the same number" in capsys.readouterr().err


def test_what_the_annotated_table_cannot_hold_is_refused_before_a_teacher_is_trained(
    request_of: Callable[..., LabelDistillation],
) -> None:
    """It was said after the training, with the advice to give another --out."""
    request = request_of()
    assert request.unlabelled
    request.unlabelled.path.write_text('{"text": "Snow fell.", "depth": Infinity}\n')
    request = msgspec.structs.replace(request, unlabelled=open_texts(request.unlabelled.path, "text"))
    with pytest.raises(InputError, match=r"row 1 of the column 'depth' has one\. .*Remove it from the table\.$"):
        request.check()
