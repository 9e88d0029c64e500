# SPDX-License-Identifier: Apache-2.0
"""Log-likelihoods, plain and rolling, as lm-eval asks for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import _add_special_kwargs, has_bos_prefix
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from compressors.errors import SettingsError
from lmkick_plugin.inference.batch_sizes import BatchSize, batch_size_of
from lmkick_plugin.inference.data_parallel import all_requests, fewest, merge_scores, my_steps
from lmkick_plugin.inference.encoding import EncodedAhead
from lmkick_plugin.inference.prefix_plan import Plan, Request, make_request, plan_steps
from lmkick_plugin.inference.runner import Runner
from lmkick_plugin.inference.scores import Answer, Answers, Scores

__all__ = ["ScoringHFLM"]

_LOGGER = logging.getLogger(__name__)


class ScoringHFLM(HFLM):  # type: ignore[misc]  # lm_eval is untyped
    """lm-eval's ``hf`` model, with each prefix that requests share computed once.

    Attributes:
        prefix_reuse: False leaves everything to ``hf``.
        scored_tokens: Tokens that scoring has computed so far, and that ``hf`` would have: one row
            for each distinct input.
    """

    prefix_reuse: bool = False
    _runner: Runner | None = None
    _ahead: EncodedAhead | None = None
    _told_plain: bool = False

    def __init__(self, **kwargs: Any) -> None:
        """Load the model.

        Args:
            **kwargs: The arguments of ``hf``.
        """
        self.scored_tokens = {"computed": 0, "plain": 0}
        super().__init__(**kwargs)

    @property
    def scores_fast(self) -> bool:
        """Whether log-likelihoods are computed here, not by ``hf``; says so once where not."""
        if not self.prefix_reuse:
            return False
        reason = self._why_plain()
        if reason is not None and not self._told_plain:
            self._told_plain = True
            _LOGGER.warning("Log-likelihoods are computed as by lm-eval's hf model: %s.", reason)
        return reason is None

    def _why_plain(self) -> str | None:
        if self.backend != "causal":
            return "the model is an encoder and a decoder"
        if not isinstance(self.model, torch.nn.Module):
            return "the model is no PyTorch module"
        if getattr(self.model, "tp_size", None):
            return "the model is tensor parallel"
        adapters = getattr(self.model, "peft_config", None) or {}
        if any(getattr(one, "is_prompt_learning", False) for one in adapters.values()):
            return "an adapter adds virtual tokens to every prompt"
        kind = getattr(getattr(self, "accelerator", None), "distributed_type", None)
        if kind is not None and kind.name in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
            return "all processes have to run the same number of forward passes"
        return None

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Answer]:
        """As in ``hf``; texts are encoded many at a time."""
        if self.scores_fast and getattr(self.tokenizer, "is_fast", False):
            self._ahead = EncodedAhead([one.args for one in requests], self._encode_many)
        try:
            answers: list[Answer] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        finally:
            self._ahead = None
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

    def _encode_many(self, texts: list[str]) -> list[list[int]]:
        """Each text as :meth:`tok_encode` encodes it."""
        begin = self.tokenizer.decode(self.prefix_token_id)
        usual = _add_special_kwargs(None, self.add_bos_token)
        kinds = [has_bos_prefix(text, begin) for text in texts]
        found: dict[str, list[int]] = {}
        for kind, how in ((False, usual), (True, {**usual, "add_special_tokens": False})):
            some = [text for text, is_kind in zip(texts, kinds, strict=True) if is_kind == kind]
            if some:
                encoded = self.tokenizer(some, verbose=False, **how)["input_ids"]
                found.update(zip(some, encoded, strict=True))
        return [found[text] for text in texts]

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[Answer]:
        """As in ``hf``; common prefixes are computed once."""
        if not self.scores_fast:
            plain: list[Answer] = super()._loglikelihood_tokens(
                requests, disable_tqdm=disable_tqdm, override_bs=override_bs
            )
            return plain
        asked = [self._request(context, continuation) for _, context, continuation in requests]
        texts: dict[Request, list[tuple[str, str]]] = {}
        for (text, _, _), request in zip(requests, asked, strict=True):
            # Rolling windows have no text of their own.
            if text is not None:
                texts.setdefault(request, []).append(text)

        def note(request: Request, answer: Answer) -> None:
            for text in texts.get(request, ()):
                self.cache_hook.add_partial("loglikelihood", text, answer)

        answers = self._score(asked, "scoring", disable_tqdm, note)
        return [answers[request] for request in asked]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """As in ``hf``; no text's scores over the whole vocabulary are held at once."""
        if not self.scores_fast:
            plain: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)
            return plain
        windows = [self._windows_of(request.args[0]) for request in requests]
        texts: dict[Request, list[int]] = {}
        for index, each in enumerate(windows):
            for window in dict.fromkeys(each):
                texts.setdefault(window, []).append(index)
        missing = [len(set(each)) for each in windows]
        known: dict[Request, float] = {}
        totals = [0.0] * len(requests)

        def finish(index: int) -> None:
            totals[index] = sum(known[window] for window in windows[index])
            arguments = requests[index].args
            self.cache_hook.add_partial("loglikelihood_rolling", arguments, totals[index])

        def note(window: Request, answer: Answer) -> None:
            known[window] = answer[0]
            for index in texts[window]:
                missing[index] -= 1
                if not missing[index]:
                    finish(index)

        for index, each in enumerate(windows):
            if not each:  # an empty text
                finish(index)
        self._score([*texts], "rolling", disable_tqdm, note)
        return totals

    def window_log_likelihoods(self, windows: Sequence[Sequence[int]]) -> list[float]:
        """Log-likelihood of each window's tokens, after the first one, in float32.

        Args:
            windows: Of this process; at least 2 tokens each, and no more than the context.

        Returns:
            The sums over each window's predicted tokens.
        """
        asked = [self._request([window[0]], [*window[1:]]) for window in windows]
        answers = self._score(asked, "rolling", together=False)
        return [answers[request][0] for request in asked]

    def _windows_of(self, text: str) -> list[Request]:
        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        return [self._request(*make_disjoint_window(window)) for window in windows]

    def _request(self, context: list[int], continuation: list[int]) -> Request:
        if not context or not 0 < len(continuation) <= self.max_length:
            raise SettingsError(
                f"A request has {len(context)} tokens before its answer and {len(continuation)} in "
                f"it; scoring needs at least 1 of both, and at most {self.max_length} in the "
                "answer. Shorten the task's answers, or raise max_length."
            )
        return make_request(context, continuation, self.max_length)

    def _score(
        self,
        asked: Sequence[Request],
        kind: str,
        disable_tqdm: bool = False,
        note: Callable[[Request, Answer], None] | None = None,
        *,
        together: bool = True,
    ) -> dict[Request, Answer]:
        """Answer requests.

        Args:
            asked: Of this process.
            kind: ``scoring`` or ``rolling``: the batch size of each is its own.
            disable_tqdm: Show no bar.
            note: Called with each request of this process as soon as its answer is known.
            together: Whether processes share the work.
        """
        # A rank that finds all its answers in a cache does not get here, so none may wait for it.
        together = together and self.world_size > 1 and self.cache_hook.dbdict is None
        requests = all_requests(asked) if together else sorted(set(asked))
        if not requests:
            return {}
        runner = self._get_runner()
        size = batch_size_of(self, kind)
        plan = self._plan(runner, requests, size, together)
        ranks = (self.rank, self.world_size) if together else (0, 1)
        steps = my_steps(plan, *ranks)
        scores = Scores(plan.scores)
        mine = set(asked)
        answers = Answers(requests, plan, scores)
        tokens = sum(len(part) for step in steps for part in plan.inputs(plan.steps[step]))
        with tqdm(
            total=tokens, desc=f"log-likelihoods ({kind})", unit="token", unit_scale=True,
            disable=disable_tqdm or self.rank != 0,
        ) as bar:  # fmt: skip

            def tell(computed: int, found: Any) -> None:
                self.scored_tokens["computed"] += computed
                bar.update(computed)
                if note is not None and not together:
                    for request in answers.finished(found):
                        note(request, answers[request])

            runner.run(plan, steps, scores, size, tell)
        self.scored_tokens["plain"] += plan.plain_tokens
        if together:
            merge_scores(scores)
            if note is not None:
                for request in sorted(mine):
                    note(request, answers[request])
        return {request: answers[request] for request in mine}

    def _get_runner(self) -> Runner:
        if self._runner is None or self._runner.model is not self.model:
            dtype = self.mixed_precision_dtype
            self._runner = Runner(
                self.model,
                torch.device(self.device),
                self.softmax_dtype,
                lambda: torch.autocast(
                    device_type=torch.device(self.device).type,
                    dtype=dtype,
                    enabled=dtype is not None,
                ),
            )
        return self._runner

    def _plan(
        self, runner: Runner, requests: list[Request], size: BatchSize, together: bool
    ) -> Plan:
        """The cheapest plan that is right for this model; where processes share it, the same."""
        longest = max(len(tokens) for tokens, _ in requests) // 4 - 1
        rows = [size.rows(length) for length in range(longest + 1)]
        if together:
            rows = fewest(rows)
        fits = runner.fits(longest)
        first = np.frombuffer(requests[0][0], dtype=">u4").astype(np.int64)
        reuse = fits and runner.can_share(first.tolist())
        if together:
            (reuse,) = map(bool, fewest([int(reuse)]))
        plan = plan_steps(requests, rows.__getitem__, reuse=reuse, overhead=runner.overhead)
        right = runner.agrees(plan)
        if together:
            (right,) = map(bool, fewest([int(right)]))
        if not right:
            plan = plan_steps(requests, rows.__getitem__, reuse=False)
        _LOGGER.info(
            "%d distinct requests: %d tokens to compute, instead of %d.",
            len(requests), plan.tokens, plan.plain_tokens,
        )  # fmt: skip
        return plan
