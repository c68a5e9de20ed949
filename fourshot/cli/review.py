"""`review` and `report`: the results of a run, for a person to view and to correct."""

from fourshot.cli.console import Terminal
from fourshot.cli.declare import Options, argument, command, flag
from fourshot.cli.given import refuse
from fourshot.engine.errors import InputError

RUN = argument("run", "RUN", "the folder of a run")


@command("review", RUN, argument("--most", "N", "rows, the most useful ones (default: all)", type=int, default=0))
def review(options: Options, terminal: Terminal) -> None:
    """Write a run's texts and labels into a table that you correct; `run` continues with what you left."""
    from fourshot.pipeline.cells.review import REVIEW, in_words, open_review, run_in

    if options.most < 0:
        raise InputError(f"--most is a number of rows, 0 for all; got {options.most}.")
    folder = run_in(options.run)
    with folder.lock():
        opened = open_review(folder, options.most)
    terminal.result("result", opened)
    if not opened.is_new:
        terminal.say(f"{opened.path} already exists. {in_words(REVIEW, opened.said)}.")
        terminal.say(f"To have it written again, move it away first. To train on it, repeat {folder.command}")
        return
    left_out = ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in opened.left_out.items())
    terminal.say(f"Wrote {opened.path}: {opened.rows} texts." + (f" Left out: {left_out}." if left_out else ""))
    terminal.say("Correct the columns label and keep, or delete rows, and save.")
    terminal.say(f"Then repeat {folder.command}")


@command(
    "report",
    RUN,
    flag("--serve", "open a page on this machine, with the report and the texts to review"),
    argument("--port", "PORT", "of the page (default: any free one)", type=int),
)
def report(options: Options, terminal: Terminal) -> None:
    """Print where a run's report is, or open a page with the report and the texts."""
    from fourshot.pipeline.cells.review import run_in

    folder = run_in(options.run)
    page = folder.path / "report.html"
    if options.serve:
        from fourshot.serving.review.server import serve_review

        def opened(url: str) -> None:
            terminal.result("ready", {"address": url})
            terminal.say(f"Open {url} in a browser on this machine. Ctrl-C ends it; your decisions are in the folder.")

        serve_review(folder, options.port or 0, opened)
        return
    refuse(options, "the page that --serve opens", "port")
    if not page.exists():
        raise InputError(f"there is no {page}: a run writes it at its end. Repeat the command of the run.")
    terminal.result("result", {"report": page})
    terminal.say(f"Report: {page}")
