# SPDX-License-Identifier: Apache-2.0
"""WikiText-2, as articles and as one text.

References:
    Merity et al., "Pointer Sentinel Mixture Models", arXiv:1609.07843.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from lmkick_plugin.data.columns import TEXT, table
from lmkick_plugin.data.sources import HubFiles, Origin, Source, locate

__all__ = ["TEST", "articles", "joined", "load"]

TEST = Source(
    "wikitext/test.jsonl", ("text",), HubFiles("Salesforce/wikitext", "wikitext-2-raw-v1/test-*")
)


def load(*, data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """The test split, one document an article."""
    return {"test": _articles(locate(TEST, data_dir))}


@lru_cache(maxsize=2)
def _articles(origin: Origin) -> Any:
    found = articles(row["text"] for _, row in origin.rows())
    return table(({"page": page} for page in found), page=TEXT)


def articles(rows: Iterable[str]) -> list[str]:
    r"""Join the lines of WikiText into articles: the documents of lm-eval's ``wikitext`` task.

    An article begins at a heading of the first level, ``= Title =``. The Hub's rows are the lines
    of the original file, except that a line which holds one space there is empty here; lm-eval
    counts bytes on the original.

    >>> articles(["", " = A = \n", "", " text \n", " = = part = = \n", " = B = \n"])
    [' = A = \n \n text \n = = part = = ', ' = B = \n']
    """
    found: list[list[str]] = [[]]
    for line in "".join(row or " \n" for row in rows).split("\n"):
        if _is_title(line.strip()):
            found.append([])
        found[-1].append(line)
    pages = ("\n".join(lines) for lines in found)
    return [page for page in pages if page.strip()]


def _is_title(line: str) -> bool:
    if len(line) < 4 or not (line.startswith("= ") and line.endswith(" =")):
        return False
    return not (line.startswith("= = ") or line.endswith(" = ="))


@lru_cache(maxsize=2)
def _joined(origin: Origin) -> str:
    return "\n\n".join(row["text"] for _, row in origin.rows())


def joined(data_dir: str | None = None) -> str:
    """All rows joined by two newlines: the text whose perplexity the pruning papers report."""
    return _joined(locate(TEST, data_dir))
