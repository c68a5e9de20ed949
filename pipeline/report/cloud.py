"""A word cloud as inline SVG: placed by the wordcloud library, drawn in the page's own font and colours."""

from collections.abc import Mapping
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

WIDTH, HEIGHT = 460, 250  # units of the view box
PADDING = 8
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
        margin=8,
        color_func=lambda *_, **__: "black",  # the style sheet colours; the default would load pyplot
        random_state=0,
    ).generate_from_frequencies(dict(frequencies))
    top = max(frequencies.values())
    svg = Element(
        "svg",
        {
            "class": "cloud",
            "viewBox": f"{-PADDING} {-PADDING} {WIDTH + 2 * PADDING} {HEIGHT + 2 * PADDING}",
            "role": "img",
            "aria-label": label,
        },
    )
    for (word, _), size, (y, x), _, _ in placed.layout_:
        shade = min(NUM_SHADES - 1, int(NUM_SHADES * (1 - frequencies[word] / top)))
        width, height = _extent(str(font), size, word)
        place = {"x": f"{x + width / 2:.0f}", "y": f"{y + height:.0f}", "font-size": str(size)}
        node = SubElement(svg, "text", {"class": f"shade{shade}", **place})
        node.text = word
    return Markup(tostring(svg, encoding="unicode"))


def _extent(font: str, size: int, word: str) -> tuple[float, float]:
    """Width of a word in the layout's font and height of its ink above the baseline: its place is the ink's corner."""
    from PIL import ImageFont

    loaded = ImageFont.truetype(font, size)
    return loaded.getlength(word), -loaded.getbbox(word, anchor="ls")[1]
