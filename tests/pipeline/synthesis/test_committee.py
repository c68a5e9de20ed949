"""The committee that annotates: who reads what, and how the answers become one."""

from collections.abc import Sequence
from typing import get_args

import numpy as np
import pytest

from fourshot.engine import calibration as calibrations
from fourshot.engine.core import Adapter, Engine, EngineSettings
from fourshot.engine.errors import InputError
from fourshot.engine.fake_engine import FakeEngine
from fourshot.pipeline.rows.examples import load_split
from fourshot.pipeline.synthesis import committee, encoders
from fourshot.pipeline.synthesis.committee import Annotator, Committee
from fourshot.pipeline.synthesis.evidence import PROBABILITY_FLOOR
from fourshot.pipeline.synthesis.prompts import PromptFormat, Wording, classification_prompt
from fourshot.pipeline.synthesis.settings import AnnotateSettings, RunSettings
from fourshot.pipeline.tasks.task_file import load_task

TASK = load_task("support_tickets")
SETTINGS = RunSettings()
EQUAL = RunSettings(annotate=AnnotateSettings(weights="equal"))
TEXTS = ("The parcel never came", "I was charged twice", "How do I turn a page?", "Please delete my account")


def read_alone(engine: Engine, adapter: Adapter, wording: Wording = "task") -> np.ndarray:
    prompts = [classification_prompt(TASK, text, PromptFormat(wording=wording)) for text in TEXTS]
    return calibrations.normalise(engine.score(prompts, TASK.label_words, adapter))


def weighted(parts: Sequence[tuple[float, np.ndarray]]) -> np.ndarray:
    logs = sum(weight * np.log(part + PROBABILITY_FLOOR) for weight, part in parts)
    return np.exp(logs) / np.exp(logs).sum(axis=1, keepdims=True)


def test_the_wordings_differ_and_the_one_that_is_served_is_among_them() -> None:
    wordings = get_args(Wording)
    prompts = {wording: classification_prompt(TASK, TEXTS[0], PromptFormat(wording=wording)) for wording in wordings}
    assert len(set(prompts.values())) == len(prompts) == 3 and set(SETTINGS.annotate.wordings) == {"task"}
    assert prompts["task"].startswith(TASK.instruction) and prompts["task"].endswith("Label:")
    assert TASK.instruction not in prompts["bare"]
    assert all(TEXTS[0] in prompt for prompt in prompts.values())


def test_a_long_text_is_cut_in_every_wording() -> None:
    for wording in get_args(Wording):
        form = PromptFormat(wording=wording, max_text_words=3)
        assert classification_prompt(TASK, "word " * 50, form).count("word") == 3


def test_adapters_of_the_shots_are_averaged_each_asked_in_its_own_wording(
    vllm_engine: Engine, adapters: tuple[Adapter, Adapter]
) -> None:
    annotators = (Annotator(adapter=adapters[0]), Annotator(adapter=adapters[1], wording="answer"))
    read = Committee(vllm_engine, TASK, annotators, SETTINGS).probabilities(TEXTS)
    alone = [read_alone(vllm_engine, adapters[0]), read_alone(vllm_engine, adapters[1], "answer")]
    assert read.shape == (len(TEXTS), len(TASK.labels))
    np.testing.assert_allclose(read, weighted([(0.5, alone[0]), (0.5, alone[1])]), atol=0.02)
    assert np.abs(alone[0] - alone[1]).max() > 0.1  # else it would not show who was asked


def test_an_average_reads_first_and_its_adapters_what_it_leaves_open(
    vllm_engine: Engine, adapters: tuple[Adapter, Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    shots = load_split(TASK, "train").examples[:8]
    members = (
        Annotator(adapter=adapters[0], left_out=(0, 1, 2, 3)),
        Annotator(adapter=adapters[1], left_out=(4, 5, 6, 7)),
    )
    average = Annotator(adapter=adapters[0], averages=members)  # any adapter may stand for it here
    other = Annotator(adapter=adapters[1], wording="answer")
    of_average, of_other = read_alone(vllm_engine, adapters[0]), read_alone(vllm_engine, adapters[1], "answer")
    of_members = (
        np.exp(np.mean([np.log(read_alone(vllm_engine, adapter) + PROBABILITY_FLOOR) for adapter in adapters], axis=0))
        - PROBABILITY_FLOOR
    )
    for is_open, expected in ((0.0, of_average), (1e9, of_members)):
        monkeypatch.setattr(committee, "DECISIVE_LOG_ODDS", is_open)
        together = Committee(vllm_engine, TASK, (average, other), SETTINGS, shots)
        read, agreement = together.annotate(TEXTS, intended=["", *TASK.label_names[:3]])
        logs = np.log(weighted([(2 / 3, expected), (1 / 3, of_other)])) * together.evidence["adapters"].weight
        np.testing.assert_allclose(read, calibrations.normalise(logs), atol=0.03)
        assert {*agreement.tolist()} <= {0.5, 1.0}, "it counts as one"
    one_by_one = Committee(vllm_engine, TASK, members, SETTINGS, shots)
    one_by_one.score_held_out_shots()
    held_out, alone = together.evidence["adapters"], one_by_one.evidence["adapters"]
    assert (held_out.accuracy, held_out.num_texts) == (alone.accuracy, alone.num_texts), "each of the members was asked"


def test_what_is_open_follows_from_the_label_that_a_text_was_drawn_for(
    adapters: tuple[Adapter, Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    names, heard = TASK.label_names, list[tuple[str, list[str]]]()
    average = Annotator(adapter=adapters[0], averages=(Annotator(adapter=adapters[1]),) * 2)

    def answers(_: Committee, annotator: Annotator, texts: Sequence[str]) -> np.ndarray:
        heard.append((annotator.adapter.name if annotator.adapter else "", [*texts]))
        row = [0.5, 0.3, 0.1, 0.06, 0.04]  # of the first label, the log-odds against the second are 0.5; the last's 2.5
        return np.array([row for _ in texts])

    monkeypatch.setattr(Committee, "_answers", answers)
    together = Committee(FakeEngine(EngineSettings(model="fake")), TASK, (average,), EQUAL)
    together.annotate(["a", "b", "c"], intended=[names[0], names[4], ""])
    assert heard == [(adapters[0].name, ["a", "b", "c"]), *[(adapters[1].name, ["a", "c"])] * 2]
    heard.clear()
    together.annotate(["a", "b"])
    assert heard[1:] == [(adapters[1].name, ["a", "b"])] * 2, "the two likeliest labels are near each other"


def test_a_fold_adapter_reads_its_own_fold_and_all_read_what_none_has_seen(
    vllm_engine: Engine, adapters: tuple[Adapter, Adapter]
) -> None:
    annotators = tuple(Annotator(adapter=adapter, fold=fold) for fold, adapter in enumerate(adapters))
    folds = (0, 1, 1, None)  # the fourth was drawn after the pool
    settings = RunSettings(annotate=AnnotateSettings(fold_weight=1.0))
    read = Committee(vllm_engine, TASK, annotators, settings).probabilities(TEXTS, folds)
    first, second = (read_alone(vllm_engine, adapter) for adapter in adapters)
    expected = np.stack([first[0], second[1], second[2], (first[3] + second[3]) / 2])
    np.testing.assert_allclose(read, expected, atol=0.02)


def test_both_kinds_are_weighed_as_the_settings_say(vllm_engine: Engine, adapters: tuple[Adapter, Adapter]) -> None:
    annotators = (Annotator(adapter=adapters[0]), Annotator(adapter=adapters[1], fold=0))
    shots, folds = (read_alone(vllm_engine, adapter) for adapter in adapters)
    for weight in (0.5, 2.0):
        settings = RunSettings(annotate=AnnotateSettings(fold_weight=weight))
        read = Committee(vllm_engine, TASK, annotators, settings).probabilities(TEXTS)
        np.testing.assert_allclose(read, weighted([(1.0, shots), (weight, folds)]), atol=0.02)


def test_a_process_keeps_only_the_encoders_that_were_asked_last(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, engine = list[str](), FakeEngine(EngineSettings(model="fake"))

    class Opened:
        def __init__(self, path: str, max_tokens: int) -> None:
            opened.append(path)

        def probabilities(self, texts: Sequence[str]) -> np.ndarray:
            return np.full((len(texts), len(TASK.labels)), 1 / len(TASK.labels))

    monkeypatch.setattr("fourshot.training.students.classifier.StudentClassifier", Opened)
    encoders._opened.cache_clear()
    for seed in range(3 * encoders.OPEN_ENCODERS):  # as in a comparison of many seeds
        files = encoders.EncoderFiles(name=f"encoder-{seed}", path=f"{seed}", max_tokens=32)
        together = Committee(engine, TASK, (Annotator(adapter=None, encoder=files),), EQUAL)
        together.probabilities(TEXTS)
        together.probabilities(TEXTS)
    assert opened == [f"{seed}" for seed in range(3 * encoders.OPEN_ENCODERS)], "each is loaded once"
    assert encoders._opened.cache_info().currsize == encoders.OPEN_ENCODERS
    encoders._opened.cache_clear()


def test_a_committee_without_members_is_refused(vllm_engine: Engine) -> None:
    with pytest.raises(InputError, match="none was given"):
        Committee(vllm_engine, TASK, (), SETTINGS)


def test_the_base_in_context_reads_beside_adapters_and_unseen_shots_weigh_them(
    vllm_engine: Engine, adapters: Sequence[Adapter]
) -> None:
    shots = load_split(TASK, "train").examples[:8]
    everyone = tuple(range(len(shots)))
    annotators = (
        Annotator(adapter=adapters[0], left_out=everyone[:4]),
        Annotator(adapter=adapters[1], left_out=everyone[4:]),
        Annotator(adapter=None, shown=everyone),
        Annotator(adapter=None, shown=everyone[::-1]),
    )
    weighed = RunSettings(annotate=AnnotateSettings(weights="held_out"))
    committee = Committee(vllm_engine, TASK, annotators, weighed, shots)
    read = committee.probabilities(TEXTS)
    assert set(committee.evidence) == {"adapters", "in context"}
    assert committee.evidence["adapters"].num_texts > 0
    assert read.sum(axis=1) == pytest.approx(np.ones(len(TEXTS)))
    again = Committee(vllm_engine, TASK, annotators, weighed, shots)
    assert np.abs(again.probabilities(TEXTS) - read).max() < 0.02, "the same but for rounding in other batches"
    alike = RunSettings(annotate=AnnotateSettings(weights="equal"))
    unweighed = Committee(vllm_engine, TASK, annotators, alike, shots)
    unweighed.probabilities(TEXTS)
    assert unweighed.evidence == {}
