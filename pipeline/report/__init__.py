"""The report of a run or a comparison: one HTML page that opens anywhere, and the same numbers as Markdown.

Importing it loads neither numpy nor the template engine: the value types must stay cheap to import.
"""

from fourshot.pipeline.report.data import Lineage, MethodRow, ReportData, method_row
from fourshot.pipeline.report.write import write_report

__all__ = ["Lineage", "MethodRow", "ReportData", "method_row", "write_report"]
