"""The report of a run or a comparison: one self-contained HTML page, and the same numbers as Markdown."""
