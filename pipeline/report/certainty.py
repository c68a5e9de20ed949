"""The report's part on probabilities: calibration, accuracy against coverage, and out-of-scope texts."""

from typing import Any

from fourshot.pipeline.report.data import Certainty, ReportData
from fourshot.pipeline.report.figures import Curve, line_plot
from fourshot.pipeline.report.text import count, per_cent

FEW_TEXTS = 200  # of fewer, the calibration error is mostly chance
SHOWN = (0.25, 0.5, 0.75, 0.9, 1.0)  # shares of the texts in the table


def ece_doubt(data: ReportData) -> str:
    """Return a sentence of warning where the test texts are too few for the table's calibration error; else ""."""
    if not 0 < data.num_test < FEW_TEXTS or all(row.ece is None for row in data.methods):
        return ""
    texts = "one text" if data.num_test == 1 else f"{count(data.num_test)} texts"
    return f"The calibration error (ECE) of {texts} is uncertain: differences, also before and after, may be chance."


def certainty_part(certainty: Certainty | None) -> dict[str, Any]:
    """Return the part's sentences, the rows of its table, and its figure; all empty for None."""
    if certainty is None:
        return {"lines": [], "rows": [], "plot": ""}
    lines = [
        f"Probabilities are calibrated with temperature {certainty.temperature:.2f}, found on "
        f"{certainty.calibrated_on}. No test label was used."
        if certainty.calibrated_on
        else f"Probabilities are not calibrated: {certainty.uncalibrated_because}."
    ]
    if scope := certainty.scope:
        lines.append(
            f"With --none-of-these, {per_cent(scope.false_rejects)} % of {count(scope.num_texts)} held-out texts of "
            f"the task get no label, and {per_cent(scope.false_accepts)} % of {count(scope.num_others)} texts of other "
            "subjects get one anyway."
        )
    curve = certainty.coverage
    if curve is None:
        return {"lines": lines, "rows": [], "plot": ""}
    counted = f"Accuracy against coverage is from {count(curve.num_texts)} texts"
    estimated = ", without labels: estimated from the probabilities" if curve.source == "held-out texts" else ""
    lines.append(f"{counted} ({curve.source}{estimated}).")
    rows = [min(curve.points, key=lambda point: abs(point.coverage - share)) for share in SHOWN]
    points = [(100 * point.coverage, 100 * point.accuracy) for point in curve.points]
    plot = line_plot([Curve(curve.source, points)], x_name="answered, %", y_name="accuracy, %", y_from_zero=False)
    return {"lines": lines, "rows": list(dict.fromkeys(rows)), "plot": plot}
