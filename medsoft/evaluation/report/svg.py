"""A Matplotlib figure as an ``svg`` element that stands within the report's page.

Matplotlib's own SVG is a document: it styles the whole page, brings its colours and its typeface, and its ids repeat
from figure to figure. Here a figure takes the page's colours, light or dark, and its typeface; text stays text, so that
it can be searched and read out. The same figure always gives the same element.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.figure import Figure

from medsoft.evaluation.figures.style import FAINT, GREY, INK, MARKS, PALETTE

Element = ElementTree.Element

COLOURS = {INK: "var(--ink)", GREY: "var(--quiet)", FAINT: "var(--rule)"} | {
    colour: f"var(--c{index})" for index, colour in enumerate(PALETTE)
}
"""What the page calls each colour; its style sheet says what they are."""
FONT_SIZE = 9
"""Of most texts, in the units of the picture; the page's style sheet says so too."""

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_NUMBER = re.compile(r"-?\d+\.\d+")
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_OF_THE_PAGE = ("font-family", "stroke-linecap", "stroke-linejoin", "stroke-dashoffset")
"""What the page's style sheet says for all figures."""


def to_svg(figure: Figure, about: str, name: str) -> str:
    """The figure as an ``svg`` element of the class ``chart``.

    Args:
        figure: its texts and lines have the colours of ``medsoft.evaluation.figures.style`` and no others.
        about: what it shows, for those who cannot see it.
        name: how the element's ids begin; no other figure of the page has it.

    Raises:
        ValueError: the figure has a colour that the page does not know.
    """
    written = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(written, format="svg", metadata={"Date": None}, transparent=True)
    document = ElementTree.fromstring(written.getvalue())
    root = Element("svg", {"class": "chart", "viewBox": document.attrib["viewBox"], "role": "img", "aria-label": about})
    root.extend(list(_plain(document)))
    _renumber(root, name)
    return ElementTree.tostring(root, encoding="unicode")


def _plain(parent: Element) -> Iterator[Element]:
    """The children in the page's words, without what it has no use for and without groups that only hold others."""
    for child in parent:
        tag = child.tag.removeprefix(_SVG)
        if tag in ("metadata", "style"):
            continue
        inside = list(_plain(child))
        if tag == "g":
            kind = child.attrib.pop("id", "")
            if kind.startswith(MARKS):
                _explain(inside, json.loads(kind.removeprefix(MARKS)))
            inside = _with_one_grid(inside) if kind.startswith("matplotlib.axis") else inside
        if tag == "g" and not child.attrib:
            yield from inside
            continue
        element = Element(tag, _attributes(child.attrib))
        element.text = (child.text or "").strip() or None
        element.extend(inside)
        is_seen = element.get("style") != "fill:none" if tag == "path" else tag != "defs" or inside
        if is_seen:
            yield element


def _attributes(given: dict[str, str]) -> dict[str, str]:
    """Numbers to a tenth of a unit, colours by the page's names, and nothing that the page's style sheet says."""
    kept = {}
    for name, value in given.items():
        if name == "style":
            kept[name] = _style(value)
        elif name == "d":
            # Marks are small and have curves: they need another digit.
            short = _rounded(value, 2 if "C" in value else 1)
            short = re.sub(r"\s*([A-Za-z])\s*", r"\1", short).strip()
            kept[name] = re.sub(r"(L[^A-Za-z]+)\1+", r"\1", short)
        elif name in ("x", "y", "width", "height", "transform"):
            kept[name] = _rounded(value, 1)
        else:
            kept[name] = value
    if kept.get("transform", "").startswith("rotate(-0 "):
        del kept["transform"]
    return {name: value for name, value in kept.items() if value}


def _rounded(text: str, digits: int) -> str:
    return _NUMBER.sub(lambda found: f"{round(float(found[0]), digits) + 0.0:g}", text)


def _style(text: str) -> str:
    declarations = dict(part.split(": ", 1) for part in text.split("; "))
    if declarations.get("font-size") == f"{FONT_SIZE}px":
        del declarations["font-size"]
    kept = ";".join(f"{name}:{value}" for name, value in declarations.items() if name not in _OF_THE_PAGE)
    return _COLOUR.sub(_colour, kept)


def _colour(found: re.Match[str]) -> str:
    if found[0].upper() not in COLOURS:
        raise ValueError(f"{found[0]}: a colour that the page does not know")
    return COLOURS[found[0].upper()]


def _explain(elements: list[Element], texts: list[str]) -> None:
    """Give each mark the text that is shown where a pointer rests on it."""
    marks = [mark for element in elements for mark in element.iter("use")]
    for mark, text in zip(marks, texts, strict=True):
        ElementTree.SubElement(mark, "title").text = text


def _with_one_grid(elements: list[Element]) -> list[Element]:
    """All grid lines of an axis as one path, and its texts."""
    lines = [element for element in elements if element.tag == "path"]
    rest = [element for element in elements if element.tag != "path"]
    if lines:
        lines[0].set("d", "".join(line.attrib["d"] for line in lines))
    return lines[:1] + rest


def _renumber(root: Element, name: str) -> None:
    """Ids that no other figure of the page has."""
    ids: dict[str, str] = {}
    for element in root.iter():
        if given := element.get("id"):
            ids[given] = f"{name}-{len(ids)}"
            element.set("id", ids[given])
    for element in root.iter():
        if link := element.attrib.pop(_LINK, ""):
            element.set("href", f"#{ids[link[1:]]}")
        if clip := element.get("clip-path"):
            element.set("clip-path", f"url(#{ids[clip[5:-1]]})")
