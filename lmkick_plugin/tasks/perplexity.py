# SPDX-License-Identifier: Apache-2.0
"""Task ``kickonly_perplexity``: token perplexity as in the compression papers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance

from lmkick_plugin.data import wikitext
from lmkick_plugin.data.columns import positive
from lmkick_plugin.inference.loaded_models import require_kick_model
from lmkick_plugin.metrics.aggregation import token_perplexity
from lmkick_plugin.recipe.readers import BOS, read_choice
from lmkick_plugin.tasks.base import KickTask

__all__ = ["TokenPerplexity"]


class TokenPerplexity(KickTask):
    """Perplexity of one long text in windows.

    The single document names the text and its hash, so that ``--log_samples`` does not write the
    text a second time. Every process of a data parallel run holds that document and scores its
    share of the windows.
    """

    OUTPUT_TYPE = "windows"

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._settings = {
            "max_window": positive("max_window", self.metadata.get("max_window", 2_048)),
            "bos": read_choice("bos", self.metadata.get("bos", "auto"), BOS),
        }
        data_dir = self.metadata.get("data_dir")
        self._text = wikitext.joined(data_dir)
        self._articles = [(one.name, one.start) for one in wikitext.articles(data_dir)]
        self._doc = {
            "text": "WikiText-2 raw test, rows joined by two newlines",
            "characters": len(self._text),
            "sha256": hashlib.sha256(self._text.encode()).hexdigest(),
        }

    def test_docs(self) -> list[dict[str, Any]]:
        """The one document."""
        return [self._doc]

    def doc_to_text(self, doc: Mapping[str, Any]) -> str:  # noqa: ARG002
        """No prompt."""
        return ""

    def doc_to_target(self, doc: Mapping[str, Any]) -> str:
        """Hash of the text."""
        return str(doc["sha256"])

    def doc_iterator(self, **_: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        """The one document, on every process; windows are divided between processes."""
        return iter([(0, self._doc)])

    def build_all_requests(self, *, limit: int | None = None, **_: Any) -> None:
        """Make the one request.

        Args:
            limit: number of windows (``--limit``; a fraction arrives here as 1).
            **_: what does not concern a text without prompt and examples.

        Raises:
            SettingsError: No ``kick`` model is loaded.
        """
        require_kick_model(self.task_name)
        self._instances = [self.construct_requests(self._doc, "", limit=limit)]

    def construct_requests(
        self, doc: dict[str, Any], ctx: str, *, limit: int | None = None, **_: Any
    ) -> Instance:
        """Request: the text, its windows, and where its articles begin."""
        return Instance(
            request_type=self.OUTPUT_TYPE,
            doc=doc,
            arguments=(
                ctx + self._text,
                {"limit": limit, **self._settings, "articles": self._articles},
            ),
            idx=0,
            metadata=(self.task_name, 0, 1),
        )

    def process_results(
        self,
        doc: Mapping[str, Any],  # noqa: ARG002
        results: Sequence[Mapping[str, Any]],
    ) -> dict[str, Any]:
        """Losses of this process's windows."""
        return {"token_perplexity": results[0]}

    def aggregation(self) -> dict[str, Callable[..., float]]:
        """Mean over the windows of all processes."""
        return {"token_perplexity": token_perplexity}

    def higher_is_better(self) -> dict[str, bool]:
        """A lower perplexity is better."""
        return {"token_perplexity": False}
