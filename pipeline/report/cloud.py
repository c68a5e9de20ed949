"""A word cloud as inline SVG: drawn by the wordcloud library, in the page's own font and colours."""

import re
from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

WIDTH, HEIGHT = 460, 250  # units of the view box
PADDING = 8
SHADES = ("var(--accent)", "var(--ink)", "var(--soft)")  # of the style sheet, for the most frequent words first


def word_cloud(frequencies: Mapping[str, int], label: str) -> Markup:
    """Draw words sized by frequency. Equal frequencies give equal pictures. Raises ValueError where there are none."""
    import matplotlib
    from wordcloud import WordCloud

    if not frequencies:
        raise ValueError("a word cloud of no words: give at least one")
    top = max(frequencies.values())

    def shade(word: str, *_: object, **__: object) -> str:
        return SHADES[min(len(SHADES) - 1, int(len(SHADES) * (1 - frequencies[word] / top)))]

    cloud = WordCloud(
        width=WIDTH,
        height=HEIGHT,
        # DejaVu Sans is wider than the system fonts that will draw the words, so words placed with it never overlap.
        font_path=str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"),
        max_font_size=52,
        min_font_size=10,
        prefer_horizontal=1.0,
        relative_scaling=0.5,
        margin=8,
        background_color=None,
        color_func=shade,
        random_state=0,
    ).generate_from_frequencies(dict(frequencies))
    # Without the library's own head and font: a style rule in a figure would apply to the whole page.
    words = re.sub(r"<svg.*?</style>", "", cloud.to_svg(), count=1, flags=re.DOTALL)
    view = f"{-PADDING} {-PADDING} {WIDTH + 2 * PADDING} {HEIGHT + 2 * PADDING}"
    return Markup('<svg class="cloud" viewBox="{}" role="img" aria-label="{}">').format(view, label) + Markup(words)
