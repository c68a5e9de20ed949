"""The report of a run or a comparison: one HTML page that opens anywhere, and the same numbers as Markdown."""
