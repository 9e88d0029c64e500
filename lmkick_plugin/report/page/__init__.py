# SPDX-License-Identifier: Apache-2.0
"""The report as one self-contained HTML file.

All strings from results are data: the template escapes them, and a content security policy lets the
page run its own style and script (by their hashes) and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from itertools import groupby

from lmkick_plugin.report.formatting import (
    NOTHING,
    SYMBOLS,
    interval,
    number,
    percent,
    size,
    task_name,
    with_names,
)
from lmkick_plugin.report.page.inline_svg import keys_of, panels_of
from lmkick_plugin.report.page_content import Content
from lmkick_plugin.report.plots import Drawing
from lmkick_plugin.terminal import plain

__all__ = ["render_page"]

# A number stays on a line with its unit, and both ends of an interval.
_TOGETHER = re.compile(r"(?<=\d) (?=(?:%|[kMG]?B)(?!\w))|(?<=\d,) (?=[^\s\]]+\])")
# A recovery with its interval and the comma after it, else what is left.
_WHOLE = re.compile(r"\S[^\]]*(?:\],?|$)")


def render_page(content: Content, drawings: Sequence[Drawing]) -> str:
    """Render the page.

    Args:
        content: What it says.
        drawings: Its figures, drawn.

    Returns:
        HTML.

    Raises:
        ImportError: jinja2 is missing.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    here = files(__package__)
    texts = {name: (here / name).read_text(encoding="utf-8") for name in ("page.css", "page.js")}
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tight"] = lambda text: Markup(
        _TOGETHER.sub("&nbsp;", str(escape(plain(text))))
    )
    environment.filters["unbroken"] = lambda text: Markup(
        _WHOLE.sub(r'<span class="nowrap">\g<0></span>', str(text))
    )
    environment.filters["by_task"] = lambda rows: [
        (task, [found for _, found in members])
        for task, members in groupby(rows, key=lambda row: row[0])
    ]
    template = environment.from_string((here / "page.html.j2").read_text(encoding="utf-8"))
    drawn = {drawing.figure.name: drawing for drawing in drawings}
    return template.render(
        content=content,
        several=len(content.models) > 1,
        tolerance=content.evidence.settings.tolerance,
        resamples=content.evidence.settings.resamples,
        symbols=SYMBOLS,
        nothing=NOTHING,
        number=number,
        percent=percent,
        interval=interval,
        size=size,
        task_name=task_name,
        with_names=with_names,
        panels=lambda figure: map(Markup, panels_of(drawn[figure.name])),
        keys=lambda figure: [(Markup(svg), name) for svg, name in keys_of(drawn[figure.name])],
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
