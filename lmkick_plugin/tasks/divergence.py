# SPDX-License-Identifier: Apache-2.0
"""Task ``kickonly_divergence``: texts, and averages of the divergences on them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean

from compressors.errors import SettingsError
from lmkick_plugin.data import divergence_texts
from lmkick_plugin.data.columns import positive
from lmkick_plugin.inference.loaded_models import require_kick_model, require_reference
from lmkick_plugin.metrics.aggregation import mean_over_positions
from lmkick_plugin.recipe.readers import BOS, is_unset, read_choice, read_int
from lmkick_plugin.tasks import borrowed_prompts
from lmkick_plugin.tasks.base import KickTask

__all__ = ["DivergenceTask"]

_SUMS = ("jsd", "kl", "top1_agreement")
#: What of the metadata is this task's alone, and not for tasks whose prompts it borrows.
_OWN = frozenset({"version", "differences", "divergence_prompts", "divergence_count"})


class DivergenceTask(KickTask):
    """Divergence from the dense model on texts, averaged over positions.

    A document is an article, a row of a file or a prompt; it names its text and the text's hash, so
    that ``--log_samples`` does not write the text a second time.
    """

    OUTPUT_TYPE = "divergence"

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        metadata = self.metadata
        self._count = positive("divergence_count", metadata["divergence_count"])
        self._request = {
            "max_window": positive("max_window", metadata["max_window"]),
            "prompt_tokens": positive("prompt_tokens", metadata["prompt_tokens"]),
            "new_tokens": read_int("new_tokens", metadata["new_tokens"], low=0),
            "bos": read_choice("bos", metadata.get("bos", "auto"), BOS),
        }
        self._tasks: dict[str, list[Any]] = {}
        self._docs: list[dict[str, Any]] = []
        self._texts: dict[str, str] = {}
        own, named = metadata.get("divergence_text"), metadata.get("divergence_prompts")
        if not is_unset(own) and not is_unset(named):
            raise SettingsError(
                f"divergence_text={own} and divergence_prompts={named} were both given. Leave one "
                "out, or run the task twice."
            )
        if not is_unset(named):
            passed = {key: value for key, value in metadata.items() if key not in _OWN}
            self._tasks = borrowed_prompts.load_tasks(str(named).split("+"), passed)
        elif not is_unset(own):
            self._keep(
                (str(own), at, text) for at, text in enumerate(divergence_texts.from_file(str(own)))
            )
        else:
            articles = divergence_texts.wikitext_articles(metadata.get("data_dir"))
            self._keep(("WikiText-2 raw test", at, text) for at, text in enumerate(articles))

    def _keep(self, found: Any) -> None:
        self._docs, self._texts = [], {}
        for source, number, text in found:
            digest = hashlib.sha256(text.encode()).hexdigest()
            self._texts[digest] = text
            self._docs.append(
                {"source": source, "number": number, "characters": len(text), "sha256": digest}
            )

    def test_docs(self) -> list[dict[str, Any]]:
        """The texts, by name and hash."""
        if self._tasks and not self._docs:
            self._build_prompts()
        return self._docs

    def _build_prompts(self, **options: Any) -> None:
        found = borrowed_prompts.prompts(self._tasks, self._count, **options)
        self._keep((prompt.task, prompt.number, prompt.text) for prompt in found)

    def doc_to_text(self, doc: Mapping[str, Any]) -> str:
        """The text."""
        return self._texts[doc["sha256"]]

    def doc_to_target(self, doc: Mapping[str, Any]) -> str:
        """Hash of the text."""
        return str(doc["sha256"])

    def doc_iterator(
        self,
        *,
        rank: int = 0,
        limit: int | None = None,
        world_size: int = 1,
        samples: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Documents of one process, numbered as in lm-eval."""
        docs = self.test_docs()
        if samples:
            docs = [docs[at] for at in samples]
        return islice(enumerate(docs[:limit] if limit else docs), rank, None, world_size)

    def build_all_requests(
        self,
        *,
        limit: int | None = None,
        samples: Sequence[int] | None = None,
        rank: int = 0,
        world_size: int = 1,
        apply_chat_template: bool = False,
        **options: Any,
    ) -> None:
        """Make a request for each document of this process.

        Args:
            limit: number of documents.
            samples: which documents, instead.
            rank: this process.
            world_size: number of processes.
            apply_chat_template: concerns prompts alone, as in the tasks they are of.
            **options: of ``Task.build_all_requests``; a system instruction concerns prompts alone,
                likewise.

        Raises:
            SettingsError: No ``kick`` model is loaded, or none has a dense reference.
        """
        require_kick_model(self.task_name)
        require_reference(self.task_name)
        if self._tasks and (apply_chat_template or options.get("system_instruction")):
            names = ("system_instruction", "fewshot_as_multiturn", "chat_template")
            layout = {name: options[name] for name in names if name in options}
            self._build_prompts(apply_chat_template=apply_chat_template, **layout)
        self._instances = [
            self.construct_requests(doc, self.doc_to_text(doc), number=number)
            for number, doc in self.doc_iterator(
                rank=rank, limit=limit, world_size=world_size, samples=samples
            )
        ]

    def construct_requests(
        self, doc: dict[str, Any], ctx: str, *, number: int = 0, **_: Any
    ) -> Instance:
        """Request for a text, with its windows and generation settings."""
        return Instance(
            request_type=self.OUTPUT_TYPE,
            doc=doc,
            arguments=(ctx, {**self._request, "whole": bool(self._tasks)}),
            idx=0,
            metadata=(self.task_name, number, 1),
        )

    def process_results(
        self,
        doc: Mapping[str, Any],  # noqa: ARG002
        results: Sequence[Mapping[str, Any]],
    ) -> dict[str, Any]:
        """Sums with their numbers of positions, and the position where generations part."""
        found = results[0]
        scores: dict[str, Any] = {name: [found[name], found["positions"]] for name in _SUMS}
        if found["first_divergent_token"] is not None:
            scores["first_divergent_token"] = found["first_divergent_token"]
        return scores

    def aggregation(self) -> dict[str, Callable[..., float]]:
        """Means over positions, not documents; for generations, over generations."""
        return {**dict.fromkeys(_SUMS, mean_over_positions), "first_divergent_token": mean}

    def higher_is_better(self) -> dict[str, bool]:
        """Lower divergence is better."""
        return {"jsd": False, "kl": False, "top1_agreement": True, "first_divergent_token": True}
