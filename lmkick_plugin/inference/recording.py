# SPDX-License-Identifier: Apache-2.0
"""lm-eval's ``hf`` model, watched: which prompts were cut, and whether a chat template was used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from tqdm import tqdm

from lmkick_plugin.inference.scoring import ScoringHFLM
from lmkick_plugin.inference.truncation import TruncatedPrompts, fit_generation
from lmkick_plugin.inference.truncation_log import say_truncated, without_a_line_each

__all__ = ["WatchedHFLM"]


class WatchedHFLM(ScoringHFLM):
    """Evaluates exactly as ``hf`` does, and takes notes for the record.

    Attributes:
        chat_template_used: Whether any prompt went through the chat template.
        truncation_known: False where answers came from a cache, past this model.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Load the model.

        Args:
            **kwargs: The arguments of ``hf``.
        """
        self.chat_template_used = False
        self.truncation_known = True
        self._truncated = TruncatedPrompts()
        self._scoring: list[Any] = []
        self._prompts: dict[str, list[Any]] = {}
        self._rolling: tqdm[Any] | None = None
        super().__init__(**kwargs)

    @property
    def truncated_prompts(self) -> dict[str, int] | None:
        """Number of cut prompts by task; None where that cannot be known."""
        return self._truncated.by_task() if self.truncation_known else None

    def start_evaluation(self) -> None:
        """Forget the notes; for whoever evaluates one model several times."""
        self._truncated.clear()
        self.chat_template_used = False

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        """As in ``hf``; notes which prompts were cut."""
        self._scoring = requests
        try:
            with without_a_line_each():
                results: list[Any] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        finally:
            self._scoring = []
        self._gather_truncated(requests)
        return results

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """As in ``hf``, with one bar over all texts instead of one for each few windows."""
        if self.scores_fast:
            return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)
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

    def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        # Rolling log-likelihood comes through here too, in windows that always fit.
        if self._rolling is not None:
            scored: list[Any] = super()._loglikelihood_tokens(
                requests, *args, **{**kwargs, "disable_tqdm": True}
            )
            self._rolling.update(sum(len(continuation) for _, _, continuation in requests))
            return scored
        for instance, (_, context, continuation) in zip(self._scoring, requests, strict=False):
            if len(context) + len(continuation) > self.max_length + 1:
                self._truncated.add(instance)
        results: list[Any] = super()._loglikelihood_tokens(requests, *args, **kwargs)
        return results

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """As in ``hf``; notes which prompts were cut.

        Answers that would be longer than the whole context, which ``hf`` refuses, are shortened to
        half of it, and that is said.
        """
        requests = fit_generation(requests, self.max_length)
        for instance in requests:
            self._prompts.setdefault(instance.args[0], []).append(instance)
        try:
            with without_a_line_each():
                results = self._generate(requests, disable_tqdm=disable_tqdm)
        finally:
            self._prompts = {}
        self._gather_truncated(requests)
        return results

    def _generate(self, requests: list[Any], *, disable_tqdm: bool) -> list[str]:
        """The answers themselves."""
        answers: list[str] = super().generate_until(requests, disable_tqdm=disable_tqdm)
        return answers

    def note_cut(self, prompt: str) -> None:
        """Note that a prompt of the requests that are being answered did not fit."""
        for instance in self._prompts.get(prompt, ()):
            self._truncated.add(instance)

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """As in ``hf``; notes which prompts were cut."""
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

    def note_truncated(self, requests: list[Any], cut: Iterable[Any]) -> None:
        """Note cut prompts of requests that this class does not serve itself.

        Args:
            requests: All instances that were asked of this process.
            cut: Those whose prompt did not fit.
        """
        for instance in cut:
            self._truncated.add(instance)
        self._gather_truncated(requests)

    def _gather_truncated(self, requests: list[Any]) -> None:
        """Let every process know all cut prompts: only the first one says so, and writes them."""
        if self.world_size > 1:
            from accelerate.utils import gather_object

            self._truncated.merge(gather_object(self._truncated.documents()))
        if self.rank == 0:
            asked = {str(request.task_name) for request in requests}
            cut = self._truncated.by_task()
            say_truncated({task: cut[task] for task in cut if task in asked}, self.max_length)

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> str:
        """As in ``hf``; notes that it was used."""
        self.chat_template_used = True
        return str(super().apply_chat_template(*args, **kwargs))

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """As in ``hf``; notes that a template is in use."""
        self.chat_template_used |= bool(chat_template)
        template: str | None = super().chat_template(chat_template)
        return template
