# SPDX-License-Identifier: Apache-2.0
"""matplotlib's SVG as parts of a page: a picture per panel, so that panels wrap on a phone.

The page's content security policy forbids ``style`` attributes, so they become presentation
attributes; black becomes ``currentColor``; ids begin with the figure's name; marks get a ``title``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from lmkick_plugin.report.figure_model import Figure
from lmkick_plugin.report.plots import Box, Drawing
from lmkick_plugin.terminal import plain

__all__ = ["keys_of", "panels_of"]

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FONT = re.compile(r"^(?:(bold|italic) )?([\d.]+)px")


def panels_of(drawing: Drawing) -> list[str]:
    """An ``svg`` element per panel, with the words of the figure for those who cannot see it."""
    root = _prepared(drawing)
    clips = {clip.get("id"): clip for clip in root.iter("clipPath")}
    found = []
    for index, (panel, box) in enumerate(zip(drawing.figure.panels, drawing.boxes, strict=True)):
        group = _by_id(root, f"{drawing.figure.name}-panel-{index}")
        _add_titles(group, drawing.figure, index)
        said = f"{drawing.figure.title}, {panel.title}: {panel.y_label} over {panel.x_label}."
        svg = _svg(box, {"class": "plot", "role": "img", "aria-label": plain(said)})
        used = {name for element in group.iter() for name in _references(element)}
        definitions = ElementTree.SubElement(svg, "defs")
        definitions.extend(clip for name, clip in clips.items() if name in used)
        svg.append(group)
        found.append(ElementTree.tostring(svg, encoding="unicode"))
    return found


def keys_of(drawing: Drawing) -> list[tuple[str, str]]:
    """The legend: for each name an ``svg`` element of its mark."""
    root = _prepared(drawing)
    found = []
    for index, (box, name) in enumerate(drawing.keys):
        svg = _svg(box, {"class": "key", "aria-hidden": "true", "width": f"{box[2]:.0f}"})
        group = _by_id(root, f"{drawing.figure.name}-key-{index}")
        svg.append(group)
        found.append((ElementTree.tostring(svg, encoding="unicode"), name))
    return found


def _svg(box: Box, attributes: dict[str, str]) -> ElementTree.Element:
    view = " ".join(f"{number:.1f}" for number in box)
    return ElementTree.Element("svg", {"viewBox": view, "fill": "currentColor", **attributes})


def _by_id(root: ElementTree.Element, name: str) -> ElementTree.Element:
    return next(element for element in root.iter() if element.get("id") == name)


def _prepared(drawing: Drawing) -> ElementTree.Element:
    """The picture without namespaces, style attributes and black."""
    root = ElementTree.fromstring(drawing.svg.encode())
    prefix = f"{drawing.figure.name}-"
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        for name, value in list(_declarations(element.attrib.pop("style", ""))):
            element.set(name, value)
        if _HREF in element.attrib:
            element.set("href", f"#{prefix}{element.attrib.pop(_HREF).removeprefix('#')}")
        if "id" in element.attrib:
            element.set("id", prefix + element.attrib["id"])
        for name, value in element.attrib.items():
            shown = "currentColor" if value == "#000000" else value
            element.set(name, _REFERENCE.sub(rf"url(#{prefix}\1)", shown))
    return root


def _declarations(style: str) -> Iterator[tuple[str, str]]:
    """The attributes that say the same; fonts are the page's, at matplotlib's size."""
    for declaration in filter(None, (part.strip() for part in style.split(";"))):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font" and (found := _FONT.match(value)):
            weight, size = found.groups()
            yield "font-size", size
            if weight == "bold":
                yield "font-weight", "bold"
        elif name == "font-size":
            yield name, value.removesuffix("px")
        elif name != "font-family":
            yield name, value


def _references(element: ElementTree.Element) -> Iterator[str]:
    for value in element.attrib.values():
        yield from _REFERENCE.findall(value)


def _add_titles(group: ElementTree.Element, figure: Figure, index: int) -> None:
    """Give every mark the run, numbers and file that it stands for."""
    panel = figure.panels[index]
    for number, line in enumerate(panel.lines):
        marks = _by_id(group, f"{figure.name}-marks-{index}-{number}")
        for mark, point in zip(marks.iter("use"), line.points, strict=True):
            ElementTree.SubElement(mark, "title").text = plain(point.label, limit=400)
    for number, bar in enumerate(panel.bars):
        for place, part in enumerate(bar.parts):
            mark = _by_id(group, f"{figure.name}-bar-{index}-{number}-{place}")
            ElementTree.SubElement(mark, "title").text = plain(part.label, limit=400)
