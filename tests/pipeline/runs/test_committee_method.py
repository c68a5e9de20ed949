"""The method ``committee``: the annotators of fourshot answer the test texts, as they read candidates."""

from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fourshot.engine.calibration import normalise
from fourshot.engine.core import Adapter
from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import read_json
from fourshot.pipeline.card import CARD_FILE
from fourshot.pipeline.cells.measuring import Evaluation
from fourshot.pipeline.report.data import MethodRow
from fourshot.pipeline.rows.examples import load_split
from fourshot.pipeline.runs.compare import ComparisonRequest, do_comparison
from fourshot.pipeline.runs.run import RUN_METHODS
from fourshot.pipeline.synthesis.evidence import PROBABILITY_FLOOR, KindEvidence
from fourshot.pipeline.synthesis.settings import PRESETS, WITH_BASE, AnnotateSettings, GenerateSettings, RunSettings
from tests.pipeline.runs.whole_runs import WholeRuns, texts_of
from tests.pipeline.test_settings import Listener

SETTINGS = RunSettings(
    k=2,
    generate=GenerateSettings(per_class=4, draws_per_round=40, max_candidates=80),
    annotate=AnnotateSettings(weights="held_out"),  # by default, annotators that see shots are not weighted
    allow_short=True,
)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WholeRuns:
    monkeypatch.setattr("fourshot.pipeline.runs.compare.refuse_fake", lambda *_: None)
    return WholeRuns(tmp_path / "task", monkeypatch)


def compared(runs: WholeRuns, folder: Path, *methods: str, settings: RunSettings = SETTINGS) -> dict[str, MethodRow]:
    """The table's rows by method; `runs` has heard the last comparison alone."""
    runs.heard.clear()
    request = ComparisonRequest(runs.task, "fake", settings, methods, [0], folder)
    return {row.method: row for row in do_comparison(request).rows}


def evaluation(folder: Path) -> Evaluation:
    (scores,) = (folder / "scores").glob("committee-*.json")
    return read_json(scores, Evaluation)


def readings(runs: WholeRuns) -> Counter[tuple[str, str, str]]:
    """How often each test text was asked about, by its prompt, the adapter and what it learnt to say."""
    texts = [example.text for example in load_split(runs.task, "test").examples]
    asked = [(prompts, *how) for prompts, *how in (call for call in runs.heard if len(call) == 3)]
    return Counter(
        (prompt, *how) for prompts, *how in asked for prompt in prompts if any(text in prompt for text in texts)
    )


def test_its_row_is_the_mean_of_what_the_annotators_say_weighed_as_for_candidates(
    runs: WholeRuns, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    rows = compared(runs, folder, "lora", "fourshot", "committee")
    measured, test = evaluation(folder), load_split(runs.task, "test").examples
    adapters = [file.parent for file in (folder / "adapters").glob("*/*/adapter_config.json")]
    annotators = [adapter.name for adapter in adapters if not (adapter / CARD_FILE).exists()]  # classifiers have cards
    assert (len(adapters), len(annotators)) == (6, 4)
    prompts = [f"{runs.task.instruction}\n\nText: {example.text}\nLabel:" for example in test]
    evidence = read_json(folder / "seed0" / "fourshot" / "committee.json", dict[str, KindEvidence])
    listener = Listener([])
    said = [
        normalise(listener.score(prompts, runs.task.label_words, Adapter(name=name, path=""))) for name in annotators
    ]
    expected = normalise(
        evidence["adapters"].weight * np.mean([np.log(each + PROBABILITY_FLOOR) for each in said], axis=0)
    )
    assert measured.predicted == tuple(expected.argmax(axis=1).tolist())
    assert measured.confidence == pytest.approx(expected.max(axis=1), abs=1e-5)
    alone = [each.argmax(axis=1).tolist() for each in said]
    assert any(each != alone[0] for each in alone), "else it would not show who was asked"
    row = rows["committee"]
    gold = [runs.task.label_names.index(example.label) for example in test]
    assert row.accuracy == pytest.approx(float((expected.argmax(axis=1) == gold).mean()))
    assert (row.real_examples, row.synthetic_examples) == (4, 0)
    report = (folder / "report.html").read_text()
    assert "Mean of the annotators" in report and f"{runs.task.name}: 1 draw of shots" in report


def test_it_trains_nothing_that_fourshot_does_not_train_and_alone_writes_no_texts(
    runs: WholeRuns, tmp_path: Path
) -> None:
    compared(runs, tmp_path / "out", "lora", "fourshot")
    trained = [texts_of(examples) for examples in runs.trained]
    assert runs.drawn
    compared(runs, tmp_path / "out", "lora", "fourshot", "committee")
    assert not runs.trained and not runs.drawn
    alone = compared(runs, tmp_path / "alone", "committee")
    assert alone.keys() == {"committee"} and not runs.drawn
    assert sorted(map(texts_of, runs.trained)) == sorted(texts for texts in trained if len(texts) == 2)
    assert evaluation(tmp_path / "alone").predicted == evaluation(tmp_path / "out").predicted
    assert "fourshot" in compared(runs, tmp_path / "alone", "committee", "fourshot"), "it goes on in the same folder"
    assert "committee" not in RUN_METHODS


def test_all_annotators_read_every_text_also_those_in_context_and_where_an_average_reads_candidates(
    runs: WholeRuns, tmp_path: Path
) -> None:
    averaging = msgspec.structs.replace(SETTINGS, annotate=msgspec.structs.replace(SETTINGS.annotate, average="first"))
    compared(runs, tmp_path / "averaging", "committee", settings=averaging)
    asked = readings(runs)
    assert len({adapter for _, adapter, _ in asked}) == 4 and all(adapter for _, adapter, _ in asked)
    annotate = msgspec.structs.replace(PRESETS["soft"].annotate, **WITH_BASE)
    soft = msgspec.structs.replace(SETTINGS, k=2, annotate=annotate, allow_short=True)
    compared(runs, tmp_path / "soft", "committee", settings=soft)
    with_shots = {prompt for prompt, adapter, _ in readings(runs) if not adapter and prompt.count("Label:") == 5}
    assert len(with_shots) == 3 * 2, "three orders of four shots, two texts"
    assert {verbalizer for _, adapter, verbalizer in readings(runs) if not adapter and verbalizer} == {"auto"}


@pytest.mark.parametrize("annotator", ["icl", "none"])
def test_without_a_committee_it_is_refused_before_anything_is_drawn(
    runs: WholeRuns, tmp_path: Path, annotator: str
) -> None:
    settings = msgspec.convert({"annotate": {"annotator": annotator}}, RunSettings)
    with pytest.raises(InputError, match=rf"method committee .* annotate\.annotator is '{annotator}'"):
        compared(runs, tmp_path / "out", "lora", "committee", settings=settings)
    assert not (tmp_path / "out").exists() or not [*(tmp_path / "out").glob("seed0")]
