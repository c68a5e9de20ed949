"""`import fourshot` is light, and everything it names is there."""

import subprocess
import sys
from pathlib import Path

import pytest

import fourshot
from fourshot.pipeline.task_data import TaskData
from fourshot.pipeline.tasks.task_file import given_task

ROOT = Path(__file__).resolve().parent.parent.parent


def test_importing_loads_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import fourshot\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(new - sys.stdlib_module_names - {'fourshot'}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


def test_every_name_it_promises_is_there_and_light() -> None:
    code = (
        "import sys, fourshot\n"
        "for name in fourshot.__all__: assert getattr(fourshot, name) is not None, name\n"
        "print(*sorted({'torch', 'vllm', 'transformers', 'ray', 'peft', 'datasets'} & sys.modules.keys()))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


def test_a_name_it_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = fourshot.nonsense  # type: ignore[attr-defined]


def test_names_that_were_not_used_yet_are_shown_to_who_completes_them() -> None:
    assert set(fourshot.__all__) <= set(dir(fourshot))


def test_errors_are_also_what_python_calls_them() -> None:
    with pytest.raises(fourshot.InputError) as error:
        fourshot.load_task("nothing_of_the_kind")
    assert isinstance(error.value, ValueError) and isinstance(error.value, fourshot.FourshotError)


def test_a_task_can_be_made_of_public_types_alone(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\nIt crashed.,bug\nI paid twice.,billing\n")
    labels = (fourshot.Label(name="bug"), fourshot.Label(name="billing"))
    task = fourshot.Task(
        name="t", instruction="i", noun="n", labels=labels, data=fourshot.DataSource(folder=str(tmp_path))
    )
    assert [example.label for example in TaskData(task, needs_test=False).train] == ["bug", "billing"]
    pairs = fourshot.PairSource(folder=str(tmp_path), input_columns=("text",), target_column="label")
    assert given_task(fourshot.GenerationTask(name="t", instruction="i", data=pairs)).data == pairs
