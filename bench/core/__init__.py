"""Code shared by all benchmarks. A new suite is a module or package in `bench.suites`, and a line in its `SUITES`.

The suite's name on the command line is the module's, with ``-`` for ``_``. The module defines `Options`, a struct whose
fields are the options, and `SUITE`:

    class Options(msgspec.Struct, frozen=True, kw_only=True):
        data: TaskFolders                                   # options.py: types with their help
        out: Out
        model: Model = None
        task: Annotated[str, "whose texts are classified"] = "trec"
        repeats: Annotated[Positive, "of every cell"] = 3

    def measure(options: Options, done: FinishedPieces) -> dict[str, Any]:  # measures what is not `done`
        for cell in cells(options):
            if cell.name not in done.pieces:
                done.add(cell.name, measure_cell(cell))
        return {"cells": [...], "targets": [at_least("rate", "times", rate, 2.0)]}

    def report(result: Mapping[str, Any]) -> list[Part]:              # for the console and docs/*.md
        return ["What was measured.", TablePart(["task", "rate"], [...])]

    SUITE = Suite(options=Options, measure=measure, report=report, settings=..., page=...)

`fourshot bench NAME` reads the options, checks --out and --data, and measures. It writes header and result to --out,
and a page beside it if the suite has a `page`. Then it prints the report and the targets. A command that computes
rather than measures is a `SuiteCommand`.

    suite.py        Suite, SuiteCommand                     closed_loop.py  engines, and requests to them
    options.py      options as a struct                     load.py         requests over HTTP
    results.py      header, pieces, result files, checks    workload.py     the prompts of the compared variants
    parts.py        paragraphs, tables, targets, pages      roofline.py     operations by shape, limits of the machine
    statistics.py   means with intervals, paired ratios     processes.py    functions in separate processes
    comparisons.py  results of `fourshot compare`

Importing these loads neither torch nor vllm.
"""
