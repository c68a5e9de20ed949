"""The report of a run or a comparison: one HTML page that opens anywhere, and the same numbers as Markdown."""

from typing import TYPE_CHECKING, Any

from fourshot.pipeline.report.data import Lineage, MethodRow, ReportData, method_row

if TYPE_CHECKING:
    from fourshot.pipeline.report.write import write_report

__all__ = ["Lineage", "MethodRow", "ReportData", "method_row", "write_report"]


def __getattr__(name: str) -> Any:
    """Load the writer on first use: the value types above must stay cheap to import."""
    if name == "write_report":
        from fourshot.pipeline.report.write import write_report

        return write_report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
