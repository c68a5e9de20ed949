"""The report's part on a student and its teacher, without the scores: size, speed, cost, and doubtful labels."""

from collections.abc import Iterable, Sequence

from fourshot.pipeline.remote_teacher import RemoteTeacher
from fourshot.pipeline.report.data import UnsureText
from fourshot.pipeline.report.text import count, duration, per_cent
from fourshot.pipeline.scores import Scores
from fourshot.training.students.examples import StudentResult
from fourshot.training.students.onnx_export import Parity

NUM_UNSURE = 12


def least_sure(texts: Iterable[tuple[str, Sequence[float]]], labels: Sequence[str]) -> tuple[UnsureText, ...]:
    """Return the texts whose likeliest label is least probable, the least probable first, at most `NUM_UNSURE`.

    ``texts``: each with a probability for every label, in the order of ``labels``.
    """
    ordered = sorted(texts, key=lambda pair: max(pair[1]))[:NUM_UNSURE]
    unsure = []
    for text, probabilities in ordered:
        first, second, *_ = sorted(range(len(labels)), key=lambda index: -probabilities[index])
        label, next_label = labels[first], labels[second]
        unsure.append(UnsureText(text=text, label=label, probability=probabilities[first], second=next_label))
    return tuple(unsure)


def student_facts(
    result: StudentResult,
    megabytes: float,
    scores: Scores | None,
    alone_s: float | None,
    onnx: Iterable[Parity],
    remote: RemoteTeacher | None,
) -> dict[str, str]:
    """Return the rows of a table, heading -> value.

    ``scores``: of the student on the test texts; ``alone_s``: median seconds for a single text.
    """
    facts = {
        "parameters": count(result.parameters),
        "checkpoint": f"{megabytes:,.1f} MB",
        "training": f"{duration(result.seconds)}, {count(result.steps)} steps",
    }
    if result.held_out_agreement is not None:
        agreement = per_cent(result.held_out_agreement)
        facts["same label as the teacher"] = f"{agreement} % of {count(result.held_out)} texts not used for training"
    if scores and scores.seconds:
        facts["speed, all test texts at once"] = f"{count(scores.n / scores.seconds)} texts/s on this machine"
    if alone_s is not None:
        facts["one text at a time, median"] = duration(alone_s)
    for parity in onnx:
        same = f"{count(parity.texts - parity.other_labels)} of {count(parity.texts)}"
        facts[parity.file] = f"{parity.megabytes:,.1f} MB, the same label on {same} texts"
    if remote:
        cost = "" if remote.cost is None else f", cost {remote.cost:,.2f}"
        tokens = count(remote.prompt_tokens + remote.output_tokens)
        facts[f"answers of {remote.model}"] = f"{count(remote.requests)} requests, {tokens} tokens{cost}"
    return facts
