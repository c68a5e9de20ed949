"""The adapters' folder: which version answers, and what is refused and why."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fourshot.engine.checkpoints.models import checkpoint_shapes, resolve_model
from fourshot.engine.errors import AdapterError, InputError
from fourshot.pipeline.card import load_card
from fourshot.pipeline.task import Example
from fourshot.serving.models.admission import check_weights, stage
from fourshot.serving.models.in_context import InContext, write_in_context
from fourshot.serving.models.registry import Registry, base_named, write_pins
from fourshot.serving.testing.adapters import make_adapter, task_of
from tests.serving.random_students import make_student


@pytest.fixture(scope="module")
def adapter_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One adapter, not to be changed."""
    return make_adapter(tmp_path_factory.mktemp("made"), task_of("mood"))


def copy(adapter: Path, root: Path, name: str = "") -> Path:
    return Path(shutil.copytree(adapter, root / (name or adapter.name)))


def reasons(root: Path) -> dict[str, str]:
    return {refusal.path: refusal.reason for refusal in Registry(root, base_named(None)).read().refused}


def test_the_newest_version_answers_unless_one_is_pinned(tmp_path: Path) -> None:
    task = task_of("mood")
    old, new = make_adapter(tmp_path, task, 1), make_adapter(tmp_path, task, 2)
    os.utime(old / "card.json", (1000, 1000))
    registry = Registry(tmp_path, base_named(None))
    contents = registry.read()
    assert contents.tasks == ["mood"]
    assert [adapter.name for adapter in contents.versions("mood")] == [new.name, old.name]
    write_pins(tmp_path, {"mood": old.name})
    assert [adapter.name for adapter in registry.read().versions("mood")] == [old.name, new.name]
    shutil.rmtree(old)
    assert [adapter.name for adapter in registry.read().versions("mood")] == [new.name]
    assert [*registry._examined] == [new], "a server lives for long: what is gone is forgotten"


def test_a_folder_of_many_trainings_is_served_through_its_links(tmp_path: Path, adapter_folder: Path) -> None:
    stored = copy(adapter_folder, tmp_path / "adapters" / "job")
    (tmp_path / "mood").mkdir()
    (tmp_path / "mood" / "adapter").symlink_to(stored)
    contents = Registry(tmp_path, base_named(None)).read()
    assert [adapter.name for adapter in contents.adapters] == [adapter_folder.name]
    assert contents.refused == []


def test_what_cannot_be_served_is_refused_with_the_reason(tmp_path: Path, adapter_folder: Path) -> None:
    outside = copy(adapter_folder, tmp_path / "elsewhere")
    root = tmp_path / "root"
    copy(adapter_folder, root, "fine")
    (root / "link-out").symlink_to(outside)
    inner = copy(adapter_folder, root, "weights-link-out")
    (inner / "adapter_model.safetensors").unlink()
    (inner / "adapter_model.safetensors").symlink_to(outside / "adapter_model.safetensors")
    pickled = copy(adapter_folder, root, "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    (root / "empty").mkdir()
    torn = copy(adapter_folder, root, "torn-card")
    (torn / "card.json").write_text('{"schema": 1, "na')
    foreign = copy(adapter_folder, root, "foreign")
    replace(foreign / "card.json", resolve_model(None).revision, "0123456789ab")
    odd = copy(adapter_folder, root, "odd-task")
    replace(odd / "card.json", '"mood"', '"../mood"')
    old = copy(adapter_folder, root, "old-prompts")
    replace(old / "card.json", '"prompt_version":"1-aligned"', '"prompt_version":"0"')
    refused = reasons(root)
    assert set(refused) == {path.name for path in root.iterdir()} - {"fine"}
    assert "leads out of" in refused["link-out"] and "leads out of" in refused["weights-link-out"]
    assert "pickled" in refused["pickled"]
    assert "holds no adapter" in refused["empty"]
    assert "not a card" in refused["torn-card"]
    assert "trained on SmolLM2-135M-Instruct revision 0123456789ab" in refused["foreign"]
    assert "'../mood'" in refused["odd-task"]
    assert "prompts of version 0" in refused["old-prompts"]


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_what_was_mended_in_place_is_looked_at_again_whatever_its_time_of_change_says(tmp_path: Path) -> None:
    """As by a change of who may read it, and by copies that keep times."""
    file = make_student(tmp_path, task_of("mood")) / "tokenizer.json"
    whole, times = file.read_bytes(), file.stat()
    registry = Registry(tmp_path, base_named(None))
    for content, is_refused in ((whole[:-1] + b" ", True), (whole, False)):
        file.write_bytes(content)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert bool(registry.read().refused) is is_refused


def test_no_folder_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        Registry(tmp_path / "nowhere", base_named(None))
    (tmp_path / "mailbox.csv").touch()
    with pytest.raises(InputError, match=r"mailbox\.csv is a file\. Name the folder"):
        Registry(tmp_path / "mailbox.csv", base_named(None))


def test_the_copy_that_is_served_is_checked(tmp_path: Path, adapter_folder: Path) -> None:
    card, shapes = load_card(adapter_folder), checkpoint_shapes(Path(resolve_model(None).path))
    staged = stage(adapter_folder, card, tmp_path / "staging", shapes, 8)
    check_weights(staged, card, shapes, 8)
    assert sorted(path.name for path in staged.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "card.json",
    ]
    with pytest.raises(AdapterError, match="rank is 8; the server was started for at most 4"):
        check_weights(staged, card, shapes, 4)

    changed = copy(adapter_folder, tmp_path, "changed")
    with (changed / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    with pytest.raises(AdapterError, match="not those that its card names"):
        stage(changed, card, tmp_path / "staging2", shapes, 8)
    assert not list((tmp_path / "staging2").iterdir())


def test_weights_that_do_not_fit_the_base_are_refused(tmp_path: Path, adapter_folder: Path) -> None:
    shapes = checkpoint_shapes(Path(resolve_model(None).path))
    card = load_card(adapter_folder)
    name = "model.layers.0.self_attn.q_proj.weight"
    with pytest.raises(AdapterError, match="which the base model does not have"):
        check_weights(adapter_folder, card, {k: v for k, v in shapes.items() if k != name}, 8)
    with pytest.raises(AdapterError, match="the base model needs"):
        check_weights(adapter_folder, card, {**shapes, name: [10, 20]}, 8)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    broken = make_adapter(tmp_path, task_of("mood"), size=float("nan"))
    with pytest.raises(AdapterError, match="not finite"):
        check_weights(broken, load_card(broken), checkpoint_shapes(Path(resolve_model(None).path)), 8)


@pytest.mark.parametrize("config", ["[]", "3", "null", '{"r": '])
def test_a_configuration_that_is_none_takes_no_other_adapter_with_it(tmp_path: Path, config: str) -> None:
    bad, good = make_adapter(tmp_path, task_of("mood"), 1), make_adapter(tmp_path, task_of("desk"), 2)
    (bad / "adapter_config.json").write_text(config)
    contents = Registry(tmp_path, base_named(None)).read()
    assert [adapter.name for adapter in contents.adapters] == [good.name]
    assert [refused.path for refused in contents.refused] == [bad.name]


def test_a_folder_that_may_not_be_read_takes_no_adapter_with_it(
    tmp_path: Path, adapter_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(adapter_folder, tmp_path)
    closed = tmp_path / "lost+found"
    closed.mkdir()
    iterdir = Path.iterdir

    def refuse(path: Path) -> Iterator[Path]:
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    contents = Registry(tmp_path, base_named(None)).read()
    assert [adapter.name for adapter in contents.adapters] == [adapter_folder.name]
    assert [refused.path for refused in contents.refused] == ["lost+found"]


def test_a_link_into_a_closed_folder_takes_no_adapter_with_it(
    tmp_path: Path, adapter_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one into the home of a person, where the service's account may not look."""
    root, home = tmp_path / "served", tmp_path / "home"
    copy(adapter_folder, root)
    home.mkdir()
    (root / "alice").symlink_to(home)
    is_dir = Path.is_dir

    def refuse(path: Path) -> bool:
        if path == root / "alice":
            raise PermissionError(13, "Permission denied", str(path))
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", refuse)
    contents = Registry(root, base_named(None)).read()
    assert [adapter.name for adapter in contents.adapters] == [adapter_folder.name]
    assert [refused.path for refused in contents.refused] == ["alice"]


def test_a_file_of_a_task_in_context_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.in-context.json")).write_text("{}")
    assert [path.encode() for path in reasons(tmp_path)] == [b"\\udcff.in-context.json"]


def test_examples_under_another_name_than_their_task_s_are_refused(tmp_path: Path) -> None:
    task = task_of("mood")
    shots = tuple(Example(text=f"a {label.word}", label=label.name) for label in task.labels)
    file = write_in_context(tmp_path, InContext(task=task, shots=shots))
    shutil.copy(file, tmp_path / "copy.in-context.json")
    assert reasons(tmp_path) == {"copy.in-context.json": "it is for the task mood; rename it to mood.in-context.json"}
