"""What every benchmark stands on. A new one is a module, or a package, in `bench.suites`, and a line in its `SUITES`.

Its name on the command line is the module's, with ``-`` for ``_``. It defines `Options`, a struct whose fields are the
options, and `SUITE`:

    class Options(msgspec.Struct, frozen=True, kw_only=True):
        data: TaskFolders                                   # options.py: types with their help
        out: Out
        model: Model = None
        task: Annotated[str, "whose texts are read"] = "trec"
        repeats: Annotated[Positive, "of every cell"] = 3

    def measure(options: Options, rows: ResultRows) -> dict[str, Any]:  # what `rows` lacks; the result after its header
        for cell in cells(options):
            if cell.name not in rows.pieces:
                rows.add(cell.name, measure_cell(cell))
        return {"cells": [...], "targets": [at_least("rate", "times", rate, 2.0)]}

    def report(result: Mapping[str, Any]) -> list[Part]:              # for the console and for docs/*.md, as Markdown
        return ["What was measured.", TablePart(["task", "rate"], [...])]

    SUITE = Suite(options=Options, measure=measure, report=report, settings=..., page=...)

`fourshot bench NAME` reads the options, checks --out and --data, writes header and result to --out, a page beside it
where there is a `page`, and prints the report and the targets. What computes rather than measures is a `SuiteCommand`.

    suite.py      Suite, SuiteCommand                               closed_loop.py  engines, and requests to them
    options.py    options as a struct                           load.py         requests over HTTP
    results.py    header, pieces, result files, checks          workload.py     the prompts of compared variants
    parts.py      paragraphs, tables, targets, pages            roofline.py     costs by a shape, limits of the machine
    statistics.py means with intervals, paired ratios           processes.py    functions in processes of their own
    comparisons.py  results of `fourshot compare`

Importing these loads neither torch nor vllm.
"""
