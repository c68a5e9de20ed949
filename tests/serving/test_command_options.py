"""Options of the service's commands that would do nothing are refused, or told of."""

from pathlib import Path

import pytest

from fourshot.cli import main as cli
from fourshot.engine.checkpoints.models import resolve_model
from fourshot.serving.testing.adapters import make_adapter, task_of
from tests.engine.tiny_models import tiny_checkpoint
from tests.serving.random_students import make_student
from tests.serving.test_commands import root, run_command, unstarted

__all__ = ("root", "unstarted")  # fixtures


def test_what_is_said_of_an_engine_that_is_not_there_is_told_of(
    tmp_path: Path, root: Path, unstarted: None, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("serve", "--port", "0", "--log", str(tmp_path / "log.jsonl"), "--max-loras", "3", "--kv-cache-mib", "77")
    make_student(root, task_of("mood"))
    code, text = run_command(capfd, *words, "--adapters", str(root))
    assert code == 2 and "--max-loras, --kv-cache-mib: without effect here, because there are only students" in text
    make_adapter(root, task_of("other"))
    code, text = run_command(capfd, *words, "--adapters", str(root))
    assert code == 2 and "without effect" not in text


def test_an_option_that_stands_where_vllm_s_are_is_told_of_before_anything_is_loaded(
    tmp_path: Path, root: Path, unstarted: None, capfd: pytest.CaptureFixture[str]
) -> None:
    make_adapter(root, task_of("mood"))
    words = ("serve", "--adapters", str(root), "--port", "0", "--log", str(tmp_path / "log.jsonl"), "--vllm")
    code, text = run_command(capfd, *words, "--max-loras", "2", "--keys=keys.toml", "--port", "80", "--json")
    assert code == 2 and "--keys, --port, --json: what follows --vllm is for vLLM's server only" in text
    code, text = run_command(capfd, *words, "--max-loras", "2", "--no-enable-prefix-caching")
    assert code == 2 and "no further" in text


def test_an_adapter_is_checked_against_the_base_that_is_named(
    tmp_path: Path, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, at = make_adapter(tmp_path / "made", task_of("mood")), ("--adapters", str(root))
    other = tiny_checkpoint("llama", tmp_path / "other-base")
    code, text = run_command(capfd, "adapters", "add", str(source), *at, "--base", other)
    assert code == 2 and "is not added: it was trained on" in text and "the base here is" in text
    student = make_student(tmp_path / "made", task_of("mood"))
    for added in (source, student):
        code, text = run_command(capfd, "adapters", "add", str(added), *at, "--base", "./nosuch")
        assert code == 2 and "no model folder './nosuch'" in text
    assert list(root.iterdir()) == []
    assert run_command(capfd, "adapters", "add", str(source), *at, "--base", resolve_model(None).path)[0] == 0
    assert (root / source.name / "card.json").is_file()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--data", "nowhere"), "--data is for a task that is answered in context"),
        (("--shots", "99", "--seed", "0"), "--shots and --seed are for a task that is answered in context"),
        (("--in-context", "--base", "nowhere"), "--base is for adapters"),
    ],
)
def test_an_option_of_adding_that_would_do_nothing_is_refused(
    words: tuple[str, ...], reason: str, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, text = run_command(capfd, "adapters", "add", "support_tickets", "--adapters", str(root), *words)
    assert code == 2 and reason in text and list(root.iterdir()) == []


def test_unpinning_looks_at_no_base(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["adapters", "unpin", "mood", "--adapters", str(root), "--base", "nowhere"])
    assert "unrecognized arguments: --base" in capfd.readouterr().err


def test_a_deep_look_is_not_at_a_folder(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, text = run_command(capfd, "doctor", "--deep", "--serve", str(root))
    assert code == 2 and "--deep is for this machine by itself" in text
