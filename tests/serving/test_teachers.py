"""Whoever annotates is found by what a user calls it, and must tell apart what the task does."""

import json
import re
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.cli.main import main
from fourshot.engine.errors import FourshotError, InputError, ServiceError
from fourshot.pipeline.events import ignore
from fourshot.pipeline.task import Label, Task
from fourshot.pipeline.tasks.generation import GenerationTask
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.serving.adapter_lookup import find_adapter
from fourshot.serving.api import TaskInfo, TaskList
from fourshot.serving.clients.calls import BATCH
from fourshot.serving.clients.local import LocalClassifier, LocalStudent
from fourshot.serving.clients.teachers import find_teacher
from fourshot.serving.clients.writers import find_writer
from fourshot.teaching import annotate, distill, plan_annotation
from tests.pipeline.task_folders import write_jsonl, write_task
from tests.serving.fake_server import FakeService, Received, Reply, refusal, served
from tests.serving.random_students import make_student


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of random weights, in the folder of its task."""
    root = tmp_path_factory.mktemp("student")
    folder = make_student(root, load_task(write_task(root)))
    write_task(folder)
    return folder


def test_a_student_annotates_and_is_asked_like_an_adapter(
    student: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    teacher = find_teacher(student)
    assert teacher.name == student.name and teacher.task.label_names == ("warm", "cold")
    texts = ["a red barn", "snow"]
    (answers,) = teacher.open(tmp_path / "log", ignore)([texts])
    with LocalClassifier(student) as classifier:
        assert isinstance(classifier, LocalStudent)
        predictions = classifier.predict(texts)
        assert [prediction.label for prediction in classifier.predict(texts, abstain_below=1.0)] == [None, None]
        with pytest.raises(InputError, match="no out-of-scope rule"):
            classifier.predict(texts, none_of_these=True)
        with pytest.raises(InputError, match="no prompt"):
            classifier.explain(texts)
    for answer, prediction in zip(answers, predictions, strict=True):
        assert answer.probabilities == pytest.approx(tuple(prediction.probabilities.values()), abs=1e-5)

    assert main(["predict", str(student), *texts, "--json"]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["label"] for line in lines[:2]] == [prediction.label for prediction in predictions]
    assert lines[2] == {"type": "result", "student": str(student), "texts": 2}

    write_jsonl(tmp_path / "notes.jsonl", [{"text": text, "n": n} for n, text in enumerate(texts)])
    annotate = ["annotate", str(student / "task.toml"), "--by", str(student), "--out", str(tmp_path / "out.csv")]
    assert main([*annotate, "--unlabelled", str(tmp_path / "notes.jsonl"), "--quiet"]) == 0
    written = (tmp_path / "out.csv").read_text().splitlines()
    assert written[0] == ("text,n,annotated_label,annotated_probability,annotated_agreement,annotated_by,p_warm,p_cold")
    assert written[1].startswith(f"a red barn,0,{predictions[0].label},") and f",{student.name}," in written[1]
    assert "2 rows" in capfd.readouterr().out

    (tmp_path / "notes.csv").write_bytes("text\nein grüner Baum\nSchnee".encode("cp1252"))
    annotate = ["annotate", str(student), "--unlabelled", str(tmp_path / "notes.csv"), "--quiet"]
    annotate += ["--out", str(tmp_path / "out.jsonl")]
    assert main(annotate) == 2 and "--encoding NAME" in capfd.readouterr().err
    assert main([*annotate, "--encoding", "cp1252"]) == 0, "a student knows its task"
    row = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert (row["text"], row["annotated_by"]) == ("ein grüner Baum", student.name)


def test_a_student_says_how_much_of_a_text_it_does_not_read(student: Path, tmp_path: Path) -> None:
    texts = ["x " * 30, "x " * 33, "short"]
    with LocalClassifier(student) as classifier:
        assert [prediction.cut_words for prediction in classifier.predict(texts)] == [
            0,
            3,
            0,
        ]  # 32 tokens, two of them special
    (answers,) = find_teacher(student).open(tmp_path / "log", ignore)([texts])
    assert [answer.cut_words for answer in answers] == [0, 3, 0]


def test_predict_with_a_student_loads_no_language_model(student: Path) -> None:
    code = (
        "import sys; from fourshot.cli.main import main; "
        f"code = main(['predict', {str(student)!r}, 'snow']); "
        "print(code, *sorted({'transformers', 'vllm', 'peft', 'ray', 'datasets'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0"


@pytest.mark.parametrize("option", [["--engine", "vllm"], ["--model", "x"], ["--explain"], ["--none-of-these"]])
def test_what_a_student_cannot_do_is_refused(
    student: Path, option: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(student), "snow", *option]) == 2
    assert option[0].strip("-").replace("-", "_") in capfd.readouterr().err.replace("-", "_")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--abstain-below", "70"], "--abstain-below is a probability, 0 to 1; got 70"),
        (["--abstain-below", "0.5", "--coverage", "0.5"], "--abstain-below and --coverage both decide"),
        (["--coverage", "1.5"], "--coverage is a share"),
        (["--none-of-these"], "--none-of-these is not supported"),
    ],
)
def test_messages_of_the_command_name_options_and_not_the_arguments_of_python(
    student: Path, options: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(student), "snow", *options]) == 2
    assert message in capfd.readouterr().err


def test_a_data_frame_is_no_list_of_texts(student: Path) -> None:
    frame = pytest.importorskip("pandas").DataFrame({"text": ["snow"]})
    with LocalClassifier(student) as classifier:
        with pytest.raises(InputError, match=r"got a DataFrame\. Give its column of texts"):
            classifier.predict(frame)
        assert len(classifier.predict(frame["text"])) == 1


def test_no_service_takes_a_student_for_an_adapter(student: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "student").symlink_to(student)
    with pytest.raises(InputError, match="is a student, not an adapter"):
        find_adapter(tmp_path / "run")


def test_another_s_labels_a_key_for_a_folder_and_nobody_are_refused(student: Path, tmp_path: Path) -> None:
    task = load_task(student / "task.toml")
    other_task = msgspec.structs.replace(task, labels=(Label(name="cold"), Label(name="warm")))
    with pytest.raises(InputError, match="distinguishes warm, cold"):
        find_teacher(student, other_task)
    with pytest.raises(InputError, match="--key is for a service"):
        find_teacher(student, task, key="k")
    with pytest.raises(InputError, match="needs no base model"):
        find_teacher(student, task, model="x")
    with pytest.raises(InputError, match="needs a task"):
        find_teacher("http://127.0.0.1:9")
    with pytest.raises(InputError, match="holds no adapter"):
        find_teacher(tmp_path)


def test_options_that_whoever_reads_does_not_need_are_refused(
    student: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tone = Task(name="tone", instruction="Sort.", noun="text", labels=(Label(name="good"), Label(name="bad")))
    (tmp_path / "notes.csv").write_text("text\nso good\n")
    with pytest.raises(InputError, match=r"runs on this machine only\. Leave --ray out"):
        find_teacher(student, ray="local")
    with served(FakeService()) as service:
        options: list[dict[str, Any]] = [{"model": "/nosuch"}, {"ray": "local"}]
        for option in options:
            with pytest.raises(
                InputError, match=rf"--{next(iter(option))} is for models .* a service annotates at http"
            ):
                annotate(tone, tmp_path / "notes.csv", tmp_path / "out.csv", by=service.url, **option)
        assert not service.received
    with pytest.raises(InputError, match="a service annotates at"):
        distill(tone, unlabelled=tmp_path / "notes.csv", by="http://127.0.0.1:9", model="x", folder=tmp_path / "d")
    with pytest.raises(InputError, match=r"--data is for tasks, but the folder .* has its own data"):
        annotate(student, tmp_path / "notes.csv", tmp_path / "out.csv", data="/nosuch")
    assert not (tmp_path / "out.csv").exists() and not (tmp_path / "d").exists()


def test_a_plan_of_annotating_is_refused_where_it_would_be(
    student: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.csv").write_text("text\nso good\n")
    (tmp_path / "there.csv").touch()
    command = ["annotate", str(student), "--unlabelled", str(tmp_path / "notes.csv"), "--out"]
    bad = [["out.csv", "--abstain-below", "7"], ["out.foo"], ["there.csv"], ["out.csv", "--ray", "local"]]
    for out, *words in bad:
        said = []
        for more in ([], ["--plan"]):
            assert main([*command, str(tmp_path / out), *words, *more]) == 2
            said.append(capfd.readouterr().err)
        assert said[0] == said[1]
    assert main([*command, str(tmp_path / "out.csv"), "--plan"]) == 0
    assert not (tmp_path / "out.csv").exists() and not (tmp_path / "out.csv.unfinished").exists()


TONE = TaskInfo(task="tone", labels=["good", "other"], adapter="tone-1", versions=["tone-1"], pinned=False, methods=[])


class NarrowService(FakeService):
    """Takes two texts at a time."""

    def usual(self, request: Received) -> Reply:
        if not request.body:
            return Reply(body=msgspec.json.encode(TaskList(base_model="a/model", tasks=[TONE])))
        if len(request.texts) > 2:
            return refusal(400, "too_many_texts", "At most 2. Send several.")
        if any("long" in text for text in request.texts):
            return refusal(400, "too_long", "The texts at [0] are too long.")
        return super().usual(request)


def test_a_service_that_refuses_a_text_or_so_many_at_once_is_asked_for_the_others(tmp_path: Path) -> None:
    tone = Task(name="tone", instruction="Sort.", noun="text", labels=(Label(name="good"), Label(name="other")))
    texts = ["so good", "a long text", "very good", "another long text", "all good"]
    with served(NarrowService()) as service:
        annotate = find_teacher(service.url, tone).open(tmp_path / "log.txt", ignore)
        annotations = [annotation for part in annotate([texts]) for annotation in part]
        assert [bool(annotation.probabilities) for annotation in annotations] == [True, False, True, False, True]
        assert "too long" in annotations[1].fault
        with pytest.raises(ServiceError, match=r"annotated none of 8 texts: .*too long"):
            list(find_teacher(service.url, tone).open(tmp_path / "log.txt", ignore)([["too long"] * 8]))


def test_a_text_on_which_a_service_fails_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tone = Task(name="tone", instruction="Sort.", noun="text", labels=(Label(name="good"), Label(name="bad")))
    failure = refusal(500, "fault", "The service has failed.")
    with served(FakeService()) as service:
        usual = service.usual
        monkeypatch.setattr(service, "usual", lambda request: failure if b"odd" in request.body else usual(request))
        texts = ["so good", "odd", "very good"]
        (annotations,) = find_teacher(service.url, tone).open(tmp_path / "log.txt", ignore)([texts])
        assert [annotation.fault for annotation in annotations] == ["", "The service has failed.", ""]
        with pytest.raises(ServiceError, match=r"annotated none of 8 texts: The service has failed\."):
            list(find_teacher(service.url, tone).open(tmp_path / "log.txt", ignore)([["odd"] * 8]))


def test_a_plan_shows_a_service_the_key_too(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("text\nso good\n")
    tone = Task(name="tone", instruction="Sort.", noun="text", labels=(Label(name="good"), Label(name="bad")))
    with served(FakeService()) as service:
        assert plan_annotation(tone, tmp_path / "notes.csv", by=service.url, key="fs-k") is None
        assert {request.headers["Authorization"] for request in service.received} == {"Bearer fs-k"}


def test_a_password_in_the_address_of_a_service_is_in_no_name_and_no_message(tmp_path: Path) -> None:
    tone = Task(name="tone", instruction="Sort.", noun="text", labels=(Label(name="good"), Label(name="other")))
    with served(NarrowService()) as service:
        address, shown = (service.url.replace("//", f"//alice:{word}@") for word in ("s3:c@ret", "..."))
        teacher = find_teacher(address, tone)
        assert teacher.name == f"{shown} tone-1"
        refused = [
            lambda: find_teacher(address, tone, ray="local"),
            lambda: find_teacher(address, msgspec.structs.replace(tone, name="tune")),
            lambda: find_teacher(address, msgspec.structs.replace(tone, labels=(Label(name="a"), Label(name="b")))),
            lambda: list(teacher.open(tmp_path / "log.txt", ignore)([["too long"] * 8])),
            lambda: find_writer(address, GenerationTask(name="facts", instruction="Write.")),
        ]
        for ask in refused:
            with pytest.raises(FourshotError, match=re.escape(shown)) as error:
                ask()
            assert "s3:" not in str(error.value) and "c@ret" not in str(error.value)


def test_a_version_that_was_not_there_at_the_beginning_annotates_no_row_in_another_s_name(tmp_path: Path) -> None:
    tone = Task(name="tone", instruction="Sort.", noun="text", labels=(Label(name="good"), Label(name="other")))
    with served(NarrowService()) as service:
        annotate = find_teacher(service.url, tone).open(tmp_path / "log.txt", ignore)
        answer = service.usual(Received("/v1/classify/tone", {}, b'{"input": ["so good"]}'))
        service.replies = [answer, answer._replace(body=answer.body.replace(b"tone-1", b"tone-2"))]
        parts = annotate([["so good"], ["so good"]])
        assert next(parts)[0].probabilities == (0.75, 0.25)
        with pytest.raises(ServiceError, match=r"tone is now served by tone-2, and was by tone-1\. .*adapters pin"):
            next(parts)


def test_a_service_is_sent_no_more_texts_at_once_than_by_its_client(tmp_path: Path) -> None:
    tone = Task(name="tone", instruction="Sort.", noun="text", labels=(Label(name="good"), Label(name="bad")))
    texts = [f"{number} good" for number in range(BATCH * 3)]
    with served(FakeService()) as service:
        annotator = find_teacher(service.url, tone)
        (answers,) = annotator.open(tmp_path / "log.txt", ignore)([texts])
        sent = [request.texts for request in service.received[1:]]
    assert len(answers) == len(texts) and [*chain(*sent)] == texts and max(map(len, sent)) <= BATCH
