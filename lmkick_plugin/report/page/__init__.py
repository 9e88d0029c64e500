# SPDX-License-Identifier: Apache-2.0
"""The report as one HTML file that needs nothing else.

All strings from results are data: the template escapes them, and a content security policy lets the
page run its own style and script (by their hashes) and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby

from lmkick_plugin.report.figure_model import Figure, Panel
from lmkick_plugin.report.formatting import NOTHING, SYMBOLS, interval, number, percent
from lmkick_plugin.report.page_content import Content
from lmkick_plugin.report.svg import marker_symbols, panel_svg
from lmkick_plugin.terminal import plain

__all__ = ["render_page"]


@dataclass(frozen=True)
class _Entry:
    name: str
    style: int
    joined: bool
    hollow: bool


def render_page(content: Content) -> str:
    """Render the page.

    Args:
        content: What it says.

    Returns:
        HTML.

    Raises:
        ImportError: jinja2 is missing.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    here = files(__package__)
    texts = {name: (here / name).read_text(encoding="utf-8") for name in ("page.css", "page.js")}
    environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=_clean)
    environment.filters["tight"] = lambda text: Markup(
        str(escape(plain(text))).replace(" %", "&nbsp;%")
    )
    environment.filters["groupby_task"] = lambda rows: [
        (task, list(members)) for task, members in groupby(rows, key=lambda row: row.task)
    ]
    template = environment.from_string((here / "page.html.j2").read_text(encoding="utf-8"))

    def svg(figure: Figure, index: int, panel: Panel) -> Markup:
        return Markup(panel_svg(panel, name=f"{figure.name}-{index}", text=figure.text))

    return template.render(
        content=content,
        several=len(content.models) > 1,
        cells=content.evidence.collection.cells,
        compared=len({(name, task) for name, task, _ in content.evidence.pairings}),
        tolerance=content.evidence.settings.tolerance,
        count=lambda outcome: sum(model.count(outcome) for model in content.models),
        claims_total=sum(len(model.claims) for model in content.models),
        symbols=SYMBOLS,
        nothing=NOTHING,
        number=number,
        percent=percent,
        interval=interval,
        short=_short,
        svg=svg,
        legend=_legend,
        caption=_caption,
        dashed=lambda figure: any(panel.reference is not None for panel in figure.panels),
        banded=lambda figure: any(panel.band is not None for panel in figure.panels),
        markers=Markup(marker_symbols()),
        style=Markup(texts["page.css"]),
        script=Markup(texts["page.js"]),
        style_hash=_hash(texts["page.css"]),
        script_hash=_hash(texts["page.js"]),
    )


def _clean(value: object) -> object:
    """Text from results without control characters and overrides of direction."""
    from markupsafe import Markup

    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _legend(figure: Figure) -> list[_Entry]:
    """Every line of a figure once."""
    entries: dict[str, _Entry] = {}
    for panel in figure.panels:
        for line in panel.lines:
            known = entries.get(line.name)
            joined = line.joined or (known is not None and known.joined)
            entries[line.name] = _Entry(line.name, line.style, joined, line.hollow)
    return list(entries.values())


def _caption(figure: Figure) -> str:
    """What to say below a heading: the figure's first sentence, or all of it where it is short."""
    if figure.section == "tasks":
        return figure.text.removeprefix(f"{figure.title}, ").split(". ")[0]
    return figure.text


def _short(task: str) -> str:
    """A task's name where its prefix goes without saying."""
    for prefix in ("kickonly_", "kick_"):
        if task.startswith(prefix):
            return task.removeprefix(prefix).replace("_", " ")
    return task
