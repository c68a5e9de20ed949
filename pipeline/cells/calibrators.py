"""Which adapters calibrate a classifier: `calibrating` describes how."""

from collections.abc import Sequence

import msgspec

from fourshot.pipeline.cells.cell import MethodCell
from fourshot.pipeline.cells.trainings import shots_left_out, shots_shown
from fourshot.pipeline.task import Example

NUM_CALIBRATORS = 4


def calibration_cell(cell: MethodCell, shots: tuple[Example, ...]) -> MethodCell | None:
    """Return a cell whose annotators calibrate a method's classifier: adapters, each trained without part of ``shots``.

    None if there are no such adapters: calibration is off, or the method is not trained. Nor are there any for a
    classifier that learns probabilities, complete texts or more real texts, or if no shot can be left out. One of
    synthetic texts has them only if they are its annotators, too: otherwise the annotators' confidence calibrates it.
    """
    settings, method = cell.settings, cell.method
    if not settings.calibrate or not method.trained or method.real_per_class or settings.train.loss == "text":
        return None
    if annotators_calibrate(cell):
        return None
    changes = {"annotator": "adapters", "weights": "held_out", "num_adapters": NUM_CALIBRATORS, "folds": 0}
    changes |= {"in_context": 0, "num_encoders": 0, "show_shots": "never"}
    settings = msgspec.structs.replace(settings, annotate=msgspec.structs.replace(settings.annotate, **changes))
    calibrators = msgspec.structs.replace(cell, name=f"{cell.name}, judges", settings=settings, shots=shots)
    return calibrators if any(shots_left_out(calibrators, NUM_CALIBRATORS)) else None


def committee_for(cell: MethodCell, writers: Sequence[MethodCell], cells: Sequence[MethodCell]) -> MethodCell | None:
    """Return the cell among ``writers`` whose annotators estimate the accuracy of a method trained on shots alone.

    None if the method is another one or is not calibrated, if none of the ``cells`` learns the writer's texts, or if
    adapters calibrate the writer's own classifier.
    """
    settings, method = cell.settings, cell.method
    can = settings.calibrate and method.trained and not method.synthetic and not method.real_per_class
    if not can or settings.train.loss == "text":
        return None
    drawn = {other.method.texts_of or other.name for other in cells if other.method.synthetic}
    of_seed = [writer for writer in writers if writer.seed == cell.seed and writer.name in drawn]
    return next((writer for writer in of_seed if annotators_calibrate(writer)), None)


def annotators_calibrate(cell: MethodCell) -> bool:
    """Return whether the annotators' confidence calibrates a method's classifier, without adapters for it."""
    annotate = cell.settings.annotate
    sees = any(shots_shown(cell)) or (not annotate.num_adapters and annotate.in_context > 0)
    return cell.method.synthetic and (cell.settings.learns_soft or (annotate.annotator == "adapters" and sees))
