"""`fourshot adapters`, `keys` and `doctor --serve`: what they say and do to the folder, without a server."""

import json
import os
import shutil
from pathlib import Path

import pytest

from fourshot.cli import main as cli
from fourshot.engine.errors import InputError
from fourshot.serving.fleet.launch import ServiceLaunch
from fourshot.serving.testing.adapters import make_adapter, task_of
from tests.serving.random_students import make_student


def run_command(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code and all that the command printed."""
    code = cli.main(list(words))
    out = capfd.readouterr()
    return code, out.out + out.err


@pytest.fixture
def unstarted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that is prepared whole, and ends where it would be started."""

    async def run(*_: object) -> None:
        raise InputError("no further")

    monkeypatch.setattr(ServiceLaunch, "run", run)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--timeout-s", "0"),
        ("--timeout-s", "-1"),
        ("--timeout-s", "nan"),
        ("--body-timeout-s", "inf"),
        ("--max-texts", "0"),
        ("--max-body-bytes", "-5"),
        ("--max-concurrent", "0"),
        ("--max-queue-s", "-1"),
        ("--poll-s", "0"),
        ("--drain-s", "-1"),
        ("--max-model-len", "0"),
        ("--kv-cache-mib", "-1"),
        ("--max-loras", "-1"),
    ],
)
def test_a_limit_that_lets_nothing_through_is_bad_input(
    root: Path, option: str, value: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code, text = run_command(capfd, "serve", "--adapters", str(root), option, value)
    assert code == 2 and f"{option} " in text and "or more" in text


@pytest.mark.parametrize(("rank", "fitting"), [(2, 8), (24, 32), (1000, 512)])
def test_a_rank_that_vllm_has_no_kernels_for_is_bad_input(
    root: Path, rank: int, fitting: int, capfd: pytest.CaptureFixture[str]
) -> None:
    code, text = run_command(capfd, "serve", "--adapters", str(root), "--max-lora-rank", str(rank))
    assert code == 2 and f"--max-lora-rank {rank}: " in text and f"as {fitting}." in text


def test_an_adapter_is_added_listed_pinned_and_removed(
    tmp_path: Path, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = make_adapter(tmp_path / "made", task_of("mood"))
    at = ("--adapters", str(root))
    assert "Add one" in run_command(capfd, "adapters", "list", *at)[1]
    (foreign := tmp_path / "foreign").mkdir()
    (foreign / "adapter_config.json").write_text("{}")
    assert "by another trainer" in run_command(capfd, "adapters", "list", "--adapters", str(foreign))[1]
    assert run_command(capfd, "adapters", "add", str(source), *at)[0] == 0
    assert (root / source.name / "adapter_model.safetensors").is_file()
    assert "is already there" in run_command(capfd, "adapters", "add", str(source), *at)[1]
    code, text = run_command(capfd, "adapters", "list", *at)
    assert code == 0 and source.name in text and "yes" in text
    assert run_command(capfd, "adapters", "pin", source.name, *at)[0] == 0
    assert json.loads((root / "pins.json").read_text()) == {"mood": source.name}
    assert run_command(capfd, "adapters", "unpin", "mood", *at)[0] == 0
    shutil.copytree(source, root / "a-second-copy")
    assert run_command(capfd, "adapters", "remove", source.name, *at)[0] == 0
    assert sorted(path.name for path in root.iterdir()) == ["pins.json"]
    code, text = run_command(capfd, "adapters", "remove", source.name, *at)
    assert code == 2 and "There are: none" in text


def test_a_damaged_copy_is_replaced_by_adding_it_again_and_a_pin_goes_with_its_version(
    tmp_path: Path, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, at = make_adapter(tmp_path / "made", task_of("mood")), ("--adapters", str(root))
    assert run_command(capfd, "adapters", "add", str(source), *at)[0] == 0
    copy = root / source.name
    for name in ("adapter_model.safetensors", "card.json"):
        os.truncate(copy / name, 100)
        assert run_command(capfd, "adapters", "add", str(source), *at)[0] == 0
        assert (copy / name).read_bytes() == (source / name).read_bytes()
    (copy / "adapter_config.json").unlink()
    assert run_command(capfd, "adapters", "add", str(source), *at)[0] == 0
    assert (copy / "adapter_config.json").is_file()
    assert run_command(capfd, "adapters", "pin", source.name, *at)[0] == 0
    assert run_command(capfd, "adapters", "remove", source.name, *at)[0] == 0
    assert json.loads((root / "pins.json").read_text()) == {}


def test_what_is_a_part_of_a_run_is_not_taken_out_of_it(
    tmp_path: Path, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stored = make_adapter(root / "a-run" / "adapters" / "job", task_of("mood"))
    (root / "a-run" / "adapter").symlink_to(stored)
    code, text = run_command(capfd, "adapters", "remove", stored.name, "--adapters", str(root))
    assert code == 2 and f"a part of {root / 'a-run'}" in text and "Move that folder out" in text
    assert (root / "a-run" / "adapter").is_symlink() and (stored / "adapter_model.safetensors").is_file()


def test_a_card_whose_name_leads_elsewhere_is_not_added(
    tmp_path: Path, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = make_adapter(tmp_path / "made", task_of("mood"))
    digest = source.name.rpartition("-")[2]
    card = source / "card.json"
    card.write_text(card.read_text().replace(source.name, f"/../x-{digest}"))
    code, text = run_command(capfd, "adapters", "add", str(source), "--adapters", str(root))
    assert code == 2 and "is not a file name" in text and not list(root.parent.glob("x-*"))


def test_a_student_is_added_listed_and_removed_and_needs_no_base_model(
    tmp_path: Path, root: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fourshot.serving.models.registry.resolve_model", pytest.fail)
    source = make_student(tmp_path / "made", task_of("mood"))
    (tmp_path / "distilled").mkdir()
    (tmp_path / "distilled" / "student").symlink_to(source)
    at = ("--adapters", str(root))
    assert run_command(capfd, "adapters", "add", str(tmp_path / "distilled"), *at)[0] == 0
    assert source.name in run_command(capfd, "adapters", "list", *at)[1]
    assert run_command(capfd, "adapters", "pin", source.name, *at)[0] == 0
    code, text = run_command(capfd, "doctor", "--serve", str(root))
    assert code == 0 and "only students" in text and f"{source.name}, 64 MiB of memory" in text
    assert "GiB needed for students" in text
    (root / source.name / "tokenizer.json").write_text("{}")
    code, text = run_command(capfd, "adapters", "list", *at)
    assert "its tokenizer.json are not those that its card names" in text
    os.truncate(source / "model.safetensors", 100)
    assert "is not added: its model.safetensors" in run_command(capfd, "adapters", "add", str(source), *at)[1]
    assert run_command(capfd, "adapters", "remove", source.name, *at)[0] == 0
    assert [path.name for path in root.iterdir()] == ["pins.json"]


def test_a_student_without_its_tokenizer_answers_nothing_and_several_are_listed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = (make_student(tmp_path, task_of(name)) for name in ("mood", "other"))
    code, text = run_command(capfd, "predict", str(tmp_path), "a text")
    assert code == 2 and f"no adapter, but students. Name one of them: {first}, {second}" in text
    (first / "tokenizer.json").unlink()
    code, text = run_command(capfd, "predict", str(first), "a text")
    assert code == 2 and "is damaged: tokenizer.json changed since training, or was not copied completely" in text


def test_pins_that_cannot_be_read_are_bad_input(tmp_path: Path, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = make_student(root, task_of("mood")).name
    (root / "pins.json").write_text('{"mood": 3}')
    for words in (("pin", name), ("unpin", "mood")):
        code, text = run_command(capfd, "adapters", *words, "--adapters", str(root))
        assert code == 2 and "pins.json cannot be read" in text
    assert (root / "pins.json").read_text() == '{"mood": 3}'


def test_a_damaged_adapter_is_not_added_and_is_listed_as_refused(
    tmp_path: Path, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = make_adapter(tmp_path / "made", task_of("mood"))
    os.truncate(source / "adapter_model.safetensors", 100_000)
    at = ("--adapters", str(root))
    code, text = run_command(capfd, "adapters", "add", str(source), *at)
    assert code == 2 and "is not added: its weights are not those that its card names" in text
    assert list(root.iterdir()) == []
    shutil.copytree(source, root / "broken")
    code, text = run_command(capfd, "adapters", "list", *at)
    assert code == 0 and "refused: broken: its weights are not those" in text
    code, text = run_command(capfd, "doctor", "--serve", str(root))
    assert code == 0 and "refused" in text and "slots" in text
    code, text = run_command(capfd, "predict", str(source), "a text")
    assert code == 2 and "is damaged" in text and "fault in fourshot" not in text
    assert run_command(capfd, "adapters", "remove", "broken", *at)[0] == 0
    assert list(root.iterdir()) == []


def test_a_task_without_adapter_is_listed_and_removed_too(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    at = ("--adapters", str(root))
    assert run_command(capfd, "adapters", "add", "support_tickets", "--in-context", *at)[0] == 0
    code, text = run_command(capfd, "adapters", "list", *at)
    assert code == 0 and "support_tickets" in text and "in context" in text
    assert run_command(capfd, "adapters", "remove", "support_tickets", *at)[0] == 0
    assert list(root.iterdir()) == []


def test_a_task_with_fewer_examples_is_added_in_context_where_that_is_said(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("adapters", "add", "support_tickets", "--in-context", "--adapters", str(root), "--shots", "100000")
    code, text = run_command(capfd, *words)
    assert code == 2 and "accept unequal shots with --allow-fewer-shots" in text
    assert run_command(capfd, *words, "--allow-fewer-shots")[0] == 0
    (file,) = root.iterdir()
    assert 0 < len(json.loads(file.read_text())["shots"]) < 100000


def test_a_key_is_shown_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.toml"
    code, text = run_command(capfd, "keys", "add", str(file), "--name", "ops", "--tasks", "a, b")
    assert code == 0
    assert text.split()[0] not in file.read_text()
    assert "a, b" in run_command(capfd, "keys", "list", str(file))[1]
    assert run_command(capfd, "keys", "add", str(file), "--name", "ops")[0] == 2
    for number in ("-1", "1000001", "99999999999999999999999"):
        words = ("keys", "add", str(file), "--name", "many", "--max-concurrent", number)
        code, text = run_command(capfd, *words)
        assert code == 2 and "give 1 to 1,000,000" in text
    assert "many" not in file.read_text()
    assert run_command(capfd, "keys", "remove", str(file), "--name", "ops")[0] == 0
    assert "contains no key" in run_command(capfd, "keys", "list", str(file))[1]
    assert "does not exist." in run_command(capfd, "keys", "list", str(tmp_path / "other.toml"))[1]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["serve", "--adapters", "nowhere"], "there is no folder nowhere"),
        (["serve", "--adapters", ".", "--replicas", "0"], "give at least 1"),
        (["serve", "--adapters", ".", "--keys", "nowhere.toml"], "nowhere.toml does not exist. Make a key"),
        (["serve", "--adapters", ".", "--hot", "a,b,c", "--max-loras", "3"], "Raise --max-loras"),
        (["adapters", "list", "--adapters", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_bad_input_is_told_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = run_command(capfd, *words)
    assert code == 2 and reason in text


def test_a_folder_with_nothing_to_ask_is_told_of_before_the_engine_starts(
    tmp_path: Path, root: Path, unstarted: None, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    make_adapter(root, task_of("mail"))
    for folder, expected in ((tmp_path / "empty", True), (root, False)):
        log = str(tmp_path / "log.jsonl")
        code, text = run_command(capfd, "serve", "--adapters", str(folder), "--port", "0", "--log", log)
        assert code == 2 and "no further" in text
        assert (f"there is nothing to serve in {folder} yet" in text) == expected


def test_a_certificate_that_cannot_be_served_with_is_bad_input(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    for certificate in ("nope.pem", str(tmp_path / "bad.pem")):
        words = ("--vllm", "--ssl-keyfile", "nope.pem", f"--ssl-certfile={certificate}")
        code, text = run_command(capfd, "serve", "--adapters", str(root), "--port", "0", *words)
        assert code == 2 and f"{certificate} and nope.pem cannot be used for TLS" in text
    code, text = run_command(capfd, "serve", "--adapters", str(root), "--vllm", "--ssl-keyfile", "nope.pem")
    assert code == 2 and "without --ssl-certfile" in text


def test_replicas_answer_over_http_alone_and_say_so(
    root: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fourshot.serving.fleet.launch.check_tls", lambda words: None)  # a certificate that is in order
    words = ("--replicas", "2", "--vllm", "--ssl-certfile", "cert.pem")
    code, text = run_command(capfd, "serve", "--adapters", str(root), *words)
    assert code == 2 and "their router has no TLS" in text
