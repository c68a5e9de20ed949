"""The parts of the page that show the texts themselves: figures 7 and 4."""

from collections.abc import Sequence

from markupsafe import Markup

from fourshot.bench.core.old_page import Part, Section
from fourshot.bench.core.plots import Curve, line_plot
from fourshot.bench.suites.paper.texts import Texts
from fourshot.bench.suites.paper.wording import NOT_MEASURED, task_name
from fourshot.pipeline.report.cloud import word_cloud
from fourshot.pipeline.report.text import count

SIDES = {"real": "real", "written": "synthetic, as written", "kept": "synthetic, kept"}  # side -> in words
NONE = f"{NOT_MEASURED.capitalize()}: no comparison that wrote texts was made here."


def trigrams(counted: Sequence[Texts]) -> Section:
    intro = (
        "Distinct word tri-grams among a number of texts, the mean over all orders in which they could be counted. "
        "Texts that repeat one another make a flatter curve, and so do shorter ones."
    )
    figures: list[Part] = [_trigram_figure(texts) for texts in counted]
    return Section("Figure 7: how varied the texts are", [intro, *(figures or [NONE])])


def _trigram_figure(texts: Texts) -> Markup:
    sides = [side for side in SIDES if side in texts.trigrams]
    most = min(texts.num[side] for side in sides)
    numbers = [f"{SIDES[side]} {count(_at(texts.trigrams[side], most))}" for side in sides]
    about = f"{task_name(texts.task)}, draw {texts.seed}. Among about {count(most)} texts: {'; '.join(numbers)}."
    curves = [Curve(SIDES[side], texts.trigrams[side]) for side in sides]
    return line_plot(curves, x_name="texts", y_name="distinct tri-grams", note=about)


def clouds(counted: Sequence[Texts]) -> Section:
    intro = (
        "The most frequent words of real and of kept synthetic texts, all classes together. The paper's clouds are of "
        "positive movie reviews, to go by the names of its figure's files."
    )
    pairs: list[Part] = [_pair(texts) for texts in counted]
    return Section("Figure 4: frequent words", [intro, *(pairs or [NONE])])


def _pair(texts: Texts) -> Markup:
    figures = []
    for side in ("real", "kept"):
        words = texts.words.get(side)
        name = f"{task_name(texts.task)}, {SIDES[side]}"
        drawn = (
            word_cloud(words, f"Frequent words, {name}: {', '.join(list(words)[:12])}")
            if words
            else Markup("<p>none</p>")
        )
        figures.append(Markup("<figure><figcaption>{}</figcaption>{}</figure>").format(name, drawn))
    return Markup('<div class="pair">{}</div>').format(Markup("").join(figures))


def _at(points: Sequence[tuple[int, float]], size: int) -> float:
    """The value at the largest size that is not above ``size``."""
    return next(value for x, value in reversed(points) if x <= size)
