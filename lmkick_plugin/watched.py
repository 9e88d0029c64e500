# SPDX-License-Identifier: Apache-2.0
"""lm-eval's ``hf`` model, watched: which prompts were cut, and whether a chat template was used."""

from __future__ import annotations

from typing import Any

from lm_eval.models.huggingface import HFLM
from torch import Tensor

from lmkick_plugin.truncation import TruncatedPrompts

__all__ = ["WatchedHFLM"]


class WatchedHFLM(HFLM):  # type: ignore[misc]  # lm_eval is untyped
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
            results: list[Any] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        finally:
            self._scoring = []
        self._gather_truncated()
        return results

    def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        # Rolling log-likelihood comes through here too, in windows that always fit.
        for instance, (_, context, continuation) in zip(self._scoring, requests, strict=False):
            if len(context) + len(continuation) > self.max_length + 1:
                self._truncated.add(instance)
        results: list[Any] = super()._loglikelihood_tokens(requests, *args, **kwargs)
        return results

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """As in ``hf``; notes which prompts were cut."""
        for instance in requests:
            self._prompts.setdefault(instance.args[0], []).append(instance)
        try:
            results: list[str] = super().generate_until(requests, disable_tqdm=disable_tqdm)
        finally:
            self._prompts = {}
        self._gather_truncated()
        return results

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
                    for instance in self._prompts[string]:
                        self._truncated.add(instance)
        return token_ids, mask

    def _gather_truncated(self) -> None:
        """Let every process know all cut prompts: only the first one writes the record."""
        if self.world_size > 1:
            from accelerate.utils import gather_object

            self._truncated.merge(gather_object(self._truncated.documents()))

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> str:
        """As in ``hf``; notes that it was used."""
        self.chat_template_used = True
        return str(super().apply_chat_template(*args, **kwargs))

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """As in ``hf``; notes that a template is in use."""
        self.chat_template_used |= bool(chat_template)
        template: str | None = super().chat_template(chat_template)
        return template
