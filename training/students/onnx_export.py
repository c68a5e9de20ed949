"""Exports a student to ONNX, in float and int8, and compares its predictions. Needs the extra "onnx"."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import settle, staged_folder, write_json
from fourshot.training.students.classifier import StudentClassifier, open_model
from fourshot.training.students.encoders import by_length

if TYPE_CHECKING:
    import numpy as np

ONNX_FOLDER = "onnx"  # in a student's folder
FLOAT_FILE, INT8_FILE, PARITY_FILE = "model.onnx", "model_int8.onnx", "parity.json"
PROBED_TEXTS = 200
INPUTS = ("input_ids", "attention_mask")


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """Comparison of an exported file's predictions with the checkpoint's."""

    file: str
    megabytes: float
    texts: int
    other_labels: int  # texts whose most likely label differs
    largest_difference: float  # of a probability
    tested: int = 0  # texts with known labels, on which both were evaluated
    points_lost: float | None = None  # the checkpoint's accuracy on these minus the file's, in percentage points


def check_onnx() -> None:
    """Raise InputError if the extra is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{error.name} is not installed. Install it in fourshot's clone: pip install '.[onnx]'"
        ) from error


def export_onnx(
    student: Path, max_tokens: int, texts: Sequence[str], test: Sequence[tuple[str, int]] = ()
) -> list[Parity]:
    """Write the float and the int8 model to ``student``/onnx, with a comparison on up to 200 of ``texts``; return it.

    ``test``: texts with the index of their label, on which accuracies are compared.

    Inputs are int64 [num_texts, num_tokens]; the output is float32 logits [num_texts, num_labels]. int8 weights have a
    scale for each output, and activations are quantised dynamically. The folder is written atomically. Raises
    InputError if the extra is not installed.
    """
    check_onnx()
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    classifier = StudentClassifier(student, max_tokens, in_parts=False)  # the file does not read in parts
    probed = list(texts[:PROBED_TEXTS])
    expected = classifier.probabilities([*probed, *(text for text, _ in test)])
    with staged_folder(student, ONNX_FOLDER) as staged:
        target = staged / FLOAT_FILE
        # Two tensors, because the export would treat one tensor passed twice as a single input.
        example = {name: torch.ones((2, 8), dtype=torch.int64) for name in INPUTS}
        dims = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens", max=max_tokens)}
        torch.onnx.export(
            open_model(student),
            (),
            str(target),
            kwargs=example,
            input_names=list(INPUTS),
            output_names=["logits"],
            dynamic_shapes=dict.fromkeys(INPUTS, dims),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        quantize_dynamic(target, staged / INT8_FILE, weight_type=QuantType.QInt8, per_channel=True)
        parities = [_parity(file, classifier, probed, test, expected) for file in (target, staged / INT8_FILE)]
        write_json(staged / PARITY_FILE, parities)
        settle(staged, student / ONNX_FOLDER, replace=True)
    return parities


def _parity(
    file: Path,
    classifier: StudentClassifier,
    probed: Sequence[str],
    test: Sequence[tuple[str, int]],
    expected: "np.ndarray",
) -> Parity:
    import numpy as np
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def logits(batch: Any) -> Any:
        return torch.from_numpy(session.run(None, {name: batch[name].numpy() for name in INPUTS})[0])

    texts = [*probed, *(text for text, _ in test)]
    exported, number = by_length(classifier.tokens, texts, logits).softmax(1).numpy(), len(probed)
    labels = np.array([label for _, label in test])
    accuracies = (
        [float((answers[number:].argmax(1) == labels).mean()) for answers in (expected, exported)] if test else []
    )
    return Parity(
        file=file.name,
        megabytes=round(file.stat().st_size / 1e6, 1),
        texts=number,
        other_labels=int((exported[:number].argmax(1) != expected[:number].argmax(1)).sum()),
        largest_difference=round(float(abs(exported[:number] - expected[:number]).max()), 6),
        tested=len(test),
        points_lost=round(100 * (accuracies[0] - accuracies[1]), 2) if test else None,
    )
