# SPDX-License-Identifier: Apache-2.0
"""lm-eval's ``hf`` model with shared prefixes, continuous batching and counts of cut prompts."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable
from typing import Any

from lm_eval.models.huggingface import HFLM
from torch import Tensor
from tqdm import tqdm

from lmkick_plugin.inference.scores import Answer
from lmkick_plugin.inference.scoring import EncodedAhead, Scorer, encode_many
from lmkick_plugin.inference.thoughts import answer_plainly, may_think
from lmkick_plugin.inference.truncation import (
    TruncatedPrompts,
    fit_generation,
    log_truncated,
    suppress_truncation_warnings,
)
from lmkick_plugin.loading.model_checks import readable_template

__all__ = ["FastHFLM"]

_LOG = logging.getLogger(__name__)


class FastHFLM(HFLM):  # type: ignore[misc]  # lm_eval is untyped
    """lm-eval's ``hf``, faster with equal answers, and with counts of cut prompts.

    Attributes:
        prefix_reuse: False leaves every answer to ``hf``.
        scorer: Computes log-likelihoods, unless ``hf`` has to.
        chat_template_used: Whether any prompt went through the chat template.
        truncation_known: False where answers came from a cache, past this model.
    """

    prefix_reuse: bool = False

    def __init__(self, **kwargs: Any) -> None:
        """Load the model.

        Args:
            **kwargs: The arguments of ``hf``.
        """
        self.scorer = Scorer(self)
        self.chat_template_used = False
        self.truncation_known = True
        self._truncated = TruncatedPrompts()
        self._ahead: EncodedAhead | None = None
        self._scoring: list[Any] = []
        self._prompts: dict[str, list[Any]] = {}
        self._rolling: tqdm[Any] | None = None
        super().__init__(**kwargs)
        accelerator = getattr(self, "accelerator", None)
        if accelerator is not None and accelerator.device.type == "cpu":
            # Under `accelerate launch` on CPUs, hf lets every process evaluate every document.
            self._rank = accelerator.process_index
            self._world_size = accelerator.num_processes

    # Log-likelihoods.

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Answer]:
        """As in ``hf``; texts are encoded many at a time, and cut prompts counted."""
        self._scoring = requests
        if self.scorer.usable and getattr(self.tokenizer, "is_fast", False):
            pairs = [one.args for one in requests]
            self._ahead = EncodedAhead(pairs, functools.partial(encode_many, self))
        try:
            with suppress_truncation_warnings():
                answers: list[Answer] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        finally:
            self._scoring, self._ahead = [], None
        self._gather_truncated(requests)
        return answers

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **kwargs: Any,
    ) -> list[int]:
        """As in ``hf``."""
        if self._ahead is not None and add_special_tokens is None and not left_truncate_len:
            known = self._ahead.get(string)
            if known is not None:
                return known
        encoded: list[int] = super().tok_encode(
            string, add_special_tokens, left_truncate_len, **kwargs
        )
        return encoded

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[Answer]:
        """As in ``hf``; common prefixes are computed once."""
        for instance, (_, context, continuation) in zip(self._scoring, requests, strict=False):
            if len(context) + len(continuation) > self.max_length + 1:
                self._truncated.add(instance)
        if self.scorer.usable:
            return self.scorer.loglikelihoods(requests, disable_tqdm=disable_tqdm)
        answers: list[Answer] = super()._loglikelihood_tokens(
            requests, disable_tqdm=disable_tqdm or self._rolling is not None,
            override_bs=override_bs,
        )  # fmt: skip
        if self._rolling is not None:  # windows of rolling log-likelihoods, which always fit
            self._rolling.update(sum(len(continuation) for _, _, continuation in requests))
        return answers

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """As in ``hf``; one bar over all texts, and logits of a text are computed in pieces."""
        if self.scorer.usable:
            return self.scorer.rolling(requests, disable_tqdm=disable_tqdm)
        hidden = disable_tqdm or self.rank != 0
        tokens = 0 if hidden else sum(len(self.tok_encode(request.args[0])) for request in requests)
        with tqdm(
            total=tokens, desc="rolling log-likelihood", unit="token", unit_scale=True,
            disable=hidden,
        ) as self._rolling:  # fmt: skip
            try:
                results: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
            finally:
                self._rolling = None
        return results

    # Generation.

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """As in ``hf``, by continuous batching; cut prompts are counted.

        Answers that would be longer than the whole context, which ``hf`` refuses, are shortened to
        half of it, and that is said.
        """
        requests = fit_generation(requests, self.max_length)
        for instance in requests:
            self._prompts.setdefault(instance.args[0], []).append(instance)
        plain = functools.partial(super().generate_until, disable_tqdm=disable_tqdm)
        if may_think(self):
            plain = functools.partial(answer_plainly, self, plain)
        try:
            with suppress_truncation_warnings():
                answers: list[str] = self._generate(requests, plain, disable_tqdm)
        finally:
            self._prompts = {}
        self._gather_truncated(requests)
        self._hint_at_template(answers)
        return answers

    def _hint_at_template(self, answers: list[str]) -> None:
        """Warn where a chat model without its template answers most prompts with nothing."""
        empty = sum(not answer.strip() for answer in answers)
        template = getattr(self.tokenizer, "chat_template", None)
        if template and not self.chat_template_used and empty > len(answers) / 2:
            _LOG.warning(
                "%d of %d answers are empty. This model has a chat template that was not used: try "
                "--apply_chat_template.",
                empty, len(answers),
            )  # fmt: skip

    def _generate(self, requests: list[Any], plain: Any, disable_tqdm: bool) -> Any:
        if not self.prefix_reuse:
            return plain(requests)
        from lmkick_plugin.inference.generation import generate_until

        return generate_until(self, requests, plain, disable_tqdm=disable_tqdm)

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """As in ``hf``; cut prompts are counted."""
        token_ids, mask = super().tok_batch_encode(
            strings, padding_side, left_truncate_len, truncation
        )
        for string, length in zip(strings, mask.sum(dim=1).tolist(), strict=True):
            # Only a row that fills the width may have been longer: encode that one again.
            full = length == token_ids.shape[1] and (truncation or length == left_truncate_len)
            if full and string in self._prompts:
                whole, _ = super().tok_batch_encode([string], padding_side)
                if whole.shape[1] > length:
                    self.note_cut(string)
        return token_ids, mask

    def _detect_batch_size(self, requests: Any = None, pos: int = 0) -> int:
        """As in ``hf`` on a GPU; on a CPU, by memory and throughput."""
        from lmkick_plugin.inference.batch_sizes import detect_batch_size

        return detect_batch_size(self, requests, pos, super()._detect_batch_size)

    # Counts.

    @property
    def truncated_prompts(self) -> dict[str, int] | None:
        """Number of cut prompts by task; None where unknown."""
        return self._truncated.by_task() if self.truncation_known else None

    def start_evaluation(self) -> None:
        """Reset the counts before another evaluation of the same model."""
        self._truncated.clear()
        self.chat_template_used = False

    def note_cut(self, prompt: str) -> None:
        """Count a prompt as cut."""
        for instance in self._prompts.get(prompt, ()):
            self._truncated.add(instance)

    def note_truncated(self, requests: list[Any], cut: Iterable[Any]) -> None:
        """Count cut prompts of requests served outside this class.

        Args:
            requests: All instances that were asked of this process.
            cut: Those whose prompt did not fit.
        """
        for instance in cut:
            self._truncated.add(instance)
        self._gather_truncated(requests)

    def _gather_truncated(self, requests: list[Any]) -> None:
        """Gather cut prompts of all processes; the first one logs and writes them."""
        if self.world_size > 1:
            from accelerate.utils import gather_object

            self._truncated.merge(gather_object(self._truncated.documents()))
        if self.rank == 0:
            asked = {str(request.task_name) for request in requests}
            cut = self._truncated.by_task()
            log_truncated({task: cut[task] for task in cut if task in asked}, self.max_length)

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> str:
        """As in ``hf``; notes that it was used."""
        self.chat_template_used = True
        with readable_template(self.tokenizer.name_or_path):
            return str(super().apply_chat_template(*args, **kwargs))

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """As in ``hf``; notes that a template is in use."""
        self.chat_template_used |= bool(chat_template)
        template: str | None = super().chat_template(chat_template)
        return template
