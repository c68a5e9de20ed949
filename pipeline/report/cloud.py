"""A word cloud as inline SVG: the placing is the wordcloud library's, the drawing follows the page's colours and font."""

from collections.abc import Mapping
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

WIDTH, HEIGHT = 460, 250  # units of the view box
NUM_SHADES = 3


def word_cloud(frequencies: Mapping[str, int], label: str) -> Markup:
    """Words sized by frequency. The same frequencies give the same picture. Raises ValueError where there are none."""
    import matplotlib
    from wordcloud import WordCloud

    if not frequencies:
        raise ValueError("a word cloud of no words: give at least one")
    # DejaVu Sans is wider than the system fonts that will draw the words, so what it has room for never overlaps.
    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    placed = WordCloud(
        width=WIDTH,
        height=HEIGHT,
        font_path=str(font),
        max_font_size=52,
        min_font_size=10,
        prefer_horizontal=1.0,
        relative_scaling=0.5,
        margin=3,
        random_state=0,
    ).generate_from_frequencies(dict(frequencies))
    top = max(frequencies.values())
    svg = Element("svg", {"class": "cloud", "viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": label})
    for (word, _), size, (y, x), _, _ in placed.layout_:
        shade = min(NUM_SHADES - 1, int(NUM_SHADES * (1 - frequencies[word] / top)))
        width = _width(str(font), size, word)
        node = SubElement(svg, "text", {"class": f"shade{shade}", "x": f"{x + width / 2:.0f}", "y": f"{y + 0.86 * size:.0f}"})
        node.set("font-size", str(size))
        node.text = word
    return Markup(tostring(svg, encoding="unicode"))


def _width(font: str, size: int, word: str) -> float:
    """Width of a word in the layout's font, so that it can be centred in the room that was found for it."""
    from PIL import ImageFont

    return ImageFont.truetype(font, size).getlength(word)
