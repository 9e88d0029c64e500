# SPDX-License-Identifier: Apache-2.0
"""WikiText-2, as articles and as one text.

References:
    Merity et al., "Pointer Sentinel Mixture Models", arXiv:1609.07843.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from lmkick_plugin.data.columns import TEXT, table
from lmkick_plugin.data.order import spread
from lmkick_plugin.data.sources import HubFiles, Origin, Source, locate

__all__ = ["TEST", "Article", "articles", "joined", "load", "split"]

TEST = Source(
    "wikitext/test.jsonl", ("text",), HubFiles("Salesforce/wikitext", "wikitext-2-raw-v1/test-*")
)


class Article(NamedTuple):
    """One article, and its start in the text of all rows joined by two newlines.

    Attributes:
        name: Number and heading, which tell it from every other.
        page: Its text.
        start: Characters before it in :func:`joined`.
    """

    name: str
    page: str
    start: int


def load(*, data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """Test split, one document per article; every prefix is spread over the text."""
    return {"test": _documents(locate(TEST, data_dir))}


@lru_cache(maxsize=2)
def _documents(origin: Origin) -> Any:
    found = split(_rows(origin))
    docs = ({"page": found[at].page, "cluster": found[at].name} for at in spread(len(found)))
    return table(docs, page=TEXT, cluster=TEXT)


def split(rows: Iterable[str]) -> list[Article]:
    r"""Join the rows of WikiText into articles: the documents of lm-eval's ``wikitext`` task.

    An article begins at a heading of the first level, ``= Title =``. Where there is no heading at
    all, every row is an article. The Hub's rows are the lines of the original file, except that a
    line which holds one space there is empty here; lm-eval counts bytes on the original.

    >>> rows = ["", " = A = \n", "", " text \n", " = = part = = \n", " = B = \n"]
    >>> for article in split(rows):
    ...     print(article)
    Article(name='0: A', page=' = A = \n \n text \n = = part = = ', start=2)
    Article(name='1: B', page=' = B = \n', start=40)
    """
    rows = list(rows)
    titled = any(map(_is_title, rows))
    found: list[tuple[list[str], int]] = [([], 0)]
    position = 0
    for row in rows:
        if _is_title(row) or (row.strip() and not titled):
            found.append(([], position))
        found[-1][0].append(row or " \n")
        position += len(row) + 2
    whole = [("".join(lines), start) for lines, start in found]
    kept = [(page, start) for page, start in whole if page.strip()]
    # The line's end before the next heading is of neither article: so lm-eval counts bytes.
    pages = [page.removesuffix("\n") for page, _ in kept[:-1]] + [page for page, _ in kept[-1:]]
    return [
        Article(f"{number}: {_heading(page)}", page, start)
        for number, (page, (_, start)) in enumerate(zip(pages, kept, strict=True))
    ]


def _heading(page: str) -> str:
    return page.strip().split("\n")[0].strip("= ")[:60]


def _is_title(row: str) -> bool:
    line = row.strip()
    if len(line) < 4 or not (line.startswith("= ") and line.endswith(" =")):
        return False
    return not (line.startswith("= = ") or line.endswith(" = ="))


@lru_cache(maxsize=1)
def _rows(origin: Origin) -> list[str]:
    return [row["text"] for _, row in origin.rows()]


def joined(data_dir: str | None = None) -> str:
    """All rows joined by two newlines: the text whose perplexity the pruning papers report."""
    return "\n\n".join(_rows(locate(TEST, data_dir)))


def articles(data_dir: str | None = None) -> list[Article]:
    """The articles of the test split, in the order of the text."""
    return split(_rows(locate(TEST, data_dir)))
