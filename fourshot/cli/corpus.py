"""`corpus`: many texts for many tasks."""

from pathlib import Path

import msgspec

from fourshot.cli.console import Terminal
from fourshot.cli.declare import MODEL, PLAN, Options, argument, command, overrides, setting
from fourshot.cli.options import settings_of, settings_options
from fourshot.engine.errors import error_class
from fourshot.pipeline.corpus.settings import CorpusSettings

DEFAULTS = CorpusSettings()
CLASSES = {  # key of `ClassOutcome` -> heading
    "task": "task",
    "label": "label",
    "state": "state",
    "kept": "kept",
    "drawn": "drawn",
    "acceptance": "accepted",
    "rejected": "rejected",
    "faults": "errors",
    "message": "why",
}


@command(
    "corpus",
    argument("--tasks", "PATH", "names, task files, or folders of them", nargs="+", required=True),
    argument("--data", "FOLDER", "has a folder for each task, with its name, in place of its own data"),
    MODEL,
    PLAN,
    argument("--out", "FOLDER", "of the data set; an existing one is continued", required=True),
    setting(DEFAULTS, "format"),
    setting(DEFAULTS, "adapters", "FOLDER"),
    setting(DEFAULTS, "ray", "WHERE"),
    setting(DEFAULTS, "gpus_per_engine"),
    setting(DEFAULTS, "licence", "LICENCE"),
    *settings_options(without=["--loss", "--test-limit"], preset="corpus"),  # nothing is trained or measured
)
def corpus(options: Options, terminal: Terminal) -> int:
    """Write many texts for many tasks, as a data set."""
    from fourshot.cli.progress import rate
    from fourshot.pipeline.corpus.run import CorpusRequest, do_corpus, plan_corpus
    from fourshot.pipeline.events import span
    from fourshot.pipeline.tasks.task_paths import load_tasks

    settings, corpus_settings = settings_of(options), CorpusSettings(**overrides(options, CorpusSettings))
    with terminal.progress() as on_event:
        tasks = load_tasks(options.tasks, options.data)
        request = CorpusRequest(tasks, options.model, Path(options.out), settings, corpus_settings)
        if options.plan:
            terminal.forecast(plan_corpus(request, on_event))
            return 0
        has_forecast = not (options.quiet or corpus_settings.ray)  # a forecast is of one machine
        summary = do_corpus(request, on_event, forecast=has_forecast)
    for file, wrong in summary.mended.items():
        aside = "" if wrong == "is missing" else f"; the earlier content is in {summary.folder}/damaged"
        terminal.warn(f"{file} {wrong}; its texts were generated again{aside}")
    terminal.result("result", summary)
    rows = [msgspec.to_builtins(outcome) for outcome in summary.classes]
    for row in rows:
        row["rejected"] = ", ".join(f"{reason} {count}" for reason, count in row["rejected"].items())
    terminal.table(rows, CLASSES)
    rates = summary.rates
    if rates.seconds:
        cached = f", {rates.cached_share:.0%} of prompt tokens cached" if rates.cached_share is not None else ""
        terminal.say(
            f"{span(rates.seconds)}: {rate(rates.rows_per_s)} texts/s kept, "
            f"{rate(rates.output_tokens_per_s)} tokens/s{cached}"
        )
    terminal.verdict(summary.forecast)
    terminal.say(f"{summary.rows} texts in {summary.folder}; README.md there describes them.")
    return max((error_class(outcome.error).exit_code for outcome in summary.classes if outcome.error), default=0)
