"""What the public functions are given of a wrong kind: an error of ours says what was got and what is allowed."""

import asyncio
import contextlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import fourshot
from fourshot.cli.options import OPTIONS
from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.core import Typed
from fourshot.engine.encoder import embedded_encoder
from fourshot.engine.errors import InputError
from fourshot.pipeline.arguments import checked, in_python
from fourshot.pipeline.selective import Refusal
from fourshot.pipeline.tasks.task_file import given_task, shipped_tasks

pd = pytest.importorskip("pandas")
STRANGE: list[Any] = [
    *(None, "", 5, -1, True, 1.5, float("nan"), float("inf"), ["a"], [], {}, ("a",), b"x", [None], [3], object()),
    *(np.array(["a"]), np.array(3), np.int64(3), Path("nope"), pd.Series(["a"]), pd.DataFrame({"text": ["a"]})),
]
NO_TASK = "no_such_task"
FUNCTIONS: dict[str, dict[str, Any]] = {  # what fails early: there is no such task or folder
    **{name: {"task": NO_TASK} for name in ("run", "compare", "distill", "distill_text")},
    "train": {"tasks": [NO_TASK]},
    "corpus": {"tasks": [NO_TASK], "folder": "corpus"},
    "annotate": {"task": NO_TASK, "unlabelled": "texts.csv", "out": "out.csv"},
    "annotate_text": {"task": NO_TASK, "unlabelled": "texts.csv", "out": "out.csv"},
    **{name: {"name_or_path": NO_TASK} for name in ("load_task", "load_any_task")},
    "Classifier": {"adapter_folder": "no_folder"},
    "Generator": {"folder": "no_folder"},
}
SETTINGS = ("RunSettings", "CorpusSettings", "StudentSettings", "TextStudentSettings", "RemoteSettings")


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_argument_of_a_function_ends_in_an_error_from_inside(name: str, tmp_path: Path) -> None:
    function, usual = getattr(fourshot, name), FUNCTIONS[name]
    for parameter in inspect.signature(function).parameters:
        for value in STRANGE:
            with pytest.raises(fourshot.FourshotError):
                function(**{**usual, parameter: value})
    assert not [*tmp_path.iterdir()], "nothing is made"


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_another_type_is_told_with_its_name(name: str) -> None:
    kind = getattr(fourshot, name)
    for field in kind.__struct_fields__:
        for value in ({1}, object(), pd.Series(["a"])):
            with pytest.raises(fourshot.InputError, match=field):
                kind(**{field: value})
        for value in STRANGE:
            try:
                kind(**{field: value})
            except fourshot.InputError:
                continue


def test_what_is_of_the_right_kind_is_not_refused() -> None:
    label = fourshot.Label(name="a")
    task = fourshot.Task(name="t", instruction="i", noun="n", labels=[label])  # type: ignore[arg-type]
    assert fourshot.RunSettings(seed=3).seed == 3 and task.label_names == ("a",)
    assert fourshot.RemoteSettings(timeout_s=5).timeout_s == 5, "a whole number is a number"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ()}, r"\$\.labels"),
        ({"labels": (fourshot.Label(name="a"), fourshot.Label(name="a"))}, r"\$\.labels\[1\]"),
        ({"labels": (fourshot.Label(name=""), fourshot.Label(name="b"))}, r"\$\.labels\[0\]"),
        ({"name": ""}, r"\$\.name"),
        ({"name": "../elsewhere"}, r"\$\.name|slash"),
        ({"instruction": ""}, r"\$\.instruction"),
        ({"fields": ("a", "a")}, r"\$\.fields"),
    ],
)
def test_a_task_that_is_made_in_python_is_checked_as_one_in_a_file_is(change: dict[str, Any], message: str) -> None:
    task = msgspec.structs.replace(fourshot.load_task("support_tickets"), **change)
    for function in (fourshot.run, fourshot.compare, fourshot.distill):
        with pytest.raises(fourshot.InputError, match=message):
            function(task)


def test_data_in_another_place_is_not_passed_over_for_a_task_that_is_made_in_python(tmp_path: Path) -> None:
    task = fourshot.load_task("support_tickets")
    with pytest.raises(fourshot.InputError, match="no_such_folder"):
        fourshot.distill(task, generate=1, data=tmp_path / "no_such_folder")


@pytest.mark.parametrize("name", shipped_tasks())
def test_every_task_that_comes_along_is_fine_as_an_object_too(name: str) -> None:
    task = fourshot.load_any_task(name)
    assert given_task(task) == task


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": 5}, r"run: task is 5, of the type int\. Give a Task, a string or a path\."),
        ({"task": NO_TASK, "gpus_per_job": "2"}, r"run: gpus_per_job is '2', of the type str\. Give a whole number\."),
        ({"task": NO_TASK, "merge": 1}, r"merge is 1, of the type int\. Give True or False\."),
        ({"task": NO_TASK, "settings": {}}, r"settings is \{\}, of the type dict\. Give a RunSettings or None\."),
        (
            {"task": NO_TASK, "until": "nowhere"},
            r"until is 'nowhere', of the type str\. Give '.* or None",
        ),
        ({"task": NO_TASK, "modle": "x"}, r"run: got an unexpected keyword argument 'modle'\. Did you mean 'model'\?"),
        ({}, r"run: missing a required argument: 'task'\. It takes task, model, "),
    ],
)
def test_the_message_says_what_was_got_and_what_is_allowed(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(fourshot.InputError, match=message):
        fourshot.run(**arguments)


@pytest.mark.parametrize("call", [lambda: fourshot.run(" "), lambda: fourshot.Classifier("")])
def test_a_blank_path_is_not_the_current_folder(call: Callable[[], object]) -> None:
    with pytest.raises(InputError, match=r"(run: task|Classifier: adapter_folder) is blank\. Give a"):
        call()


def test_a_list_is_asked_for_where_one_is_needed() -> None:
    with pytest.raises(fourshot.InputError, match=r"compare: seeds is 3, .*Give a list, of which each is a whole"):
        fourshot.compare(NO_TASK, seeds=3)  # type: ignore[arg-type]
    with pytest.raises(fourshot.InputError, match="compare: methods is 'paper'"):
        fourshot.compare(NO_TASK, "paper")


def test_numbers_of_numpy_arrive_as_pythons_own() -> None:
    @checked
    def echo(number: int, share: float, flag: bool, name: str, seeds: "list[int]", path: str | Path) -> tuple[Any, ...]:
        return number, share, flag, name, seeds, path

    given = (np.int64(3), np.float32(0.5), np.bool_(True), np.str_("a"), np.arange(2), Path("x"))
    assert [type(value) for value in echo(*given)[:5]] == [int, float, bool, str, list]  # type: ignore[arg-type]
    assert echo(1, 2, False, "", [1], "x") == (1, 2, False, "", [1], "x")
    with pytest.raises(fourshot.InputError, match=r"echo: share is nan"):
        echo(1, float("nan"), True, "", [], "x")


def test_a_function_that_takes_any_keyword_is_given_it() -> None:
    @checked
    def echo(number: int, **others: Any) -> tuple[int, dict[str, Any]]:
        return number, others

    assert echo(1, other=2) == (1, {"other": 2})
    with pytest.raises(fourshot.InputError, match="echo: number is None"):
        echo(None)  # type: ignore[arg-type]


CALLS: list[tuple[str, dict[str, Any]]] = [
    ("classify", {"task": "t", "texts": ["a"]}),
    ("predict", {"task": "t", "texts": ["a"]}),
    ("generate", {"task": "t", "inputs": ["a"]}),
    ("tasks", {}),
]


@pytest.mark.parametrize(("method", "usual"), CALLS, ids=[name for name, _ in CALLS])
def test_no_argument_of_a_client_ends_in_an_error_from_inside(method: str, usual: dict[str, Any]) -> None:
    with fourshot.Client("http://127.0.0.1:1", retries=0) as client:
        for parameter in inspect.signature(getattr(client, method)).parameters:
            names = Refusal.__struct_fields__ if parameter == "refusing" else [parameter]
            for arguments in ({**usual, name: value} for name in names for value in STRANGE):
                with contextlib.suppress(fourshot.FourshotError):  # of no texts there is nothing to ask
                    getattr(client, method)(**arguments)


def test_what_is_refused_is_told_by_its_name() -> None:
    client = fourshot.Client("http://127.0.0.1:1", retries=0)
    with pytest.raises(fourshot.InputError, match=r"Client.predict: abstain_below is '0.5', of the type str"):
        client.predict("t", ["a"], abstain_below="0.5")  # type: ignore[arg-type]
    with pytest.raises(fourshot.InputError, match=r"unexpected keyword argument 'abstain'.*'abstain_below'"):
        client.predict("t", ["a"], abstain=0.5)  # type: ignore[call-arg]

    async def ask() -> None:
        async with fourshot.AsyncClient("http://127.0.0.1:1", retries=0) as client:
            with pytest.raises(fourshot.InputError, match=r"AsyncClient.predict: concurrency is '8', of the type str"):
                await client.predict("t", ["a"], concurrency="8")  # type: ignore[arg-type]

    asyncio.run(ask())


@pytest.mark.parametrize("arguments", [{"retries": "3"}, {"timeout_s": None}, {"url": 5}, {"key": b"x"}])
@pytest.mark.parametrize("kind", [fourshot.Client, fourshot.AsyncClient])
def test_a_client_says_what_it_cannot_be_made_with(kind: Callable[..., Any], arguments: dict[str, Any]) -> None:
    with pytest.raises(fourshot.InputError, match=rf"Client: {re.escape(next(iter(arguments)))} is "):
        kind(**arguments)


def test_a_kind_that_adds_nothing_keeps_the_checks_of_what_it_is_made_of() -> None:
    class Bounded(Typed, frozen=True):
        number: int = 0

        def __post_init__(self) -> None:
            if self.number < 0:
                raise fourshot.InputError("below 0")

    class Same(Bounded, frozen=True):
        pass

    with pytest.raises(fourshot.InputError, match="below 0"):
        Same(-1)
    with pytest.raises(fourshot.InputError, match="Same: number is 'x'"):
        Same("x")  # type: ignore[arg-type]


def test_an_error_in_python_says_what_the_options_it_names_are_called_there(tmp_path: Path) -> None:
    settings = fourshot.RunSettings(k=9999)
    with pytest.raises(InputError, match="--allow-fewer-shots") as raised:
        fourshot.run("support_tickets", settings=settings, folder=tmp_path / "run")
    [note] = raised.value.__notes__
    assert "--shots is settings.k" in note and "--allow-fewer-shots is settings.allow_fewer_shots" in note
    with pytest.raises(InputError, match="--unlabelled") as raised:
        fourshot.run("support_tickets", ask=3, folder=tmp_path / "run")
    assert "--ask is the argument ask" in raised.value.__notes__[0]


def test_every_option_of_a_setting_is_found_by_its_name_in_python() -> None:
    for option in OPTIONS:
        assert in_python(f"Give {option.flag}.", ()) == f"In Python: {option.flag} is settings.{option.key}."
    assert in_python("Give --out FOLDER, or --no-such, or a--b.", ("folder",)) == (
        "In Python: --out is the argument folder."
    )
    assert in_python("There is none.", ("folder",)) == ""


@pytest.mark.parametrize("model", ["", " "])
def test_a_blank_model_is_not_the_current_folder(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(resolve_model(None).path)
    with pytest.raises(InputError, match="base model is blank"):
        fourshot.run("support_tickets", model=model, folder=tmp_path / "out", until="shots")
    monkeypatch.chdir(embedded_encoder())
    with pytest.raises(InputError, match="encoder is blank"):
        fourshot.distill("support_tickets", generate=1, student=model, folder=tmp_path / "out")


def test_numbers_of_numpy_are_settings() -> None:
    made = fourshot.settings(
        {
            "k": np.array([8])[0],
            "train": {"r": np.int64(4), "learning_rate": np.float32(0.5)},
            "align": np.bool_(False),
            "sampling.bias": [("word", np.float64(-1))],
        }
    )
    assert (made.k, made.train.r, made.train.learning_rate, made.align) == (8, 4, 0.5, False)
    assert made.sampling.bias == (("word", -1.0),)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_times_and_prices_are_finite(value: float) -> None:
    with pytest.raises(InputError, match="shard_s a number of seconds"):
        fourshot.CorpusSettings(shard_s=value)
    for name in ("timeout_s", "max_cost", "price_in", "price_out"):
        with pytest.raises(InputError, match=f"--{name.replace('_', '-')}"):
            fourshot.RemoteSettings(**{"price_in": 1.0, "price_out": 1.0, name: value})  # type: ignore[arg-type]


def test_settings_are_made_from_their_dotted_names() -> None:
    made = fourshot.settings({"generate.per_class": 50, "train": {"r": 16}, "k": 8}, preset="soft")
    expected = msgspec.structs.replace(
        (soft := fourshot.PRESETS["soft"]),
        k=8,
        generate=msgspec.structs.replace(soft.generate, per_class=50),
        train=msgspec.structs.replace(soft.train, r=16),
    )
    assert made == expected and fourshot.settings() == fourshot.RunSettings()


@pytest.mark.parametrize(
    ("values", "preset", "message"),
    [
        ({"train.rr": 16}, "default", r"settings: there is no setting 'train\.rr'\. Settings are k,"),
        ({"train.r": "many"}, "default", r"settings: train\.r: .*whole numbers"),
        ({"train.r": 0}, "default", r"settings: r must be at least 1"),
        ({}, "sofd", r"no preset 'sofd'\. The presets are default"),
        (5, "default", r"settings: values is 5"),
    ],
)
def test_settings_that_are_none_are_told(values: Any, preset: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fourshot.settings(values, preset)
