# SPDX-License-Identifier: Apache-2.0
"""Log-likelihoods, plain and rolling; shared prefixes are computed once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from lm_eval.models.utils import _add_special_kwargs, has_bos_prefix
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from compressors.errors import SettingsError
from lmkick_plugin.inference.batch_sizes import BatchSize, batch_size_of
from lmkick_plugin.inference.data_parallel import all_requests, fewest, merge_scores, my_steps
from lmkick_plugin.inference.prefix_plan import Plan, Request, make_request, plan_steps
from lmkick_plugin.inference.runner import Runner
from lmkick_plugin.inference.scores import Answer, Answers, Scores

__all__ = ["EncodedAhead", "Scorer", "encode_many"]

_LOGGER = logging.getLogger(__name__)

#: Requests whose texts are encoded together, and held until the next ones are.
_AT_A_TIME = 512


def encode_many(lm: Any, texts: list[str]) -> list[list[int]]:
    """Encode each text as ``lm.tok_encode`` does, many at a time.

    Args:
        lm: lm-eval's ``hf`` model, with a fast tokenizer.
        texts: Contexts, and contexts with continuations.
    """
    begin = lm.tokenizer.decode(lm.prefix_token_id)
    usual = _add_special_kwargs(None, lm.add_bos_token)
    kinds = [has_bos_prefix(text, begin) for text in texts]
    found: dict[str, list[int]] = {}
    for kind, how in ((False, usual), (True, {**usual, "add_special_tokens": False})):
        some = [text for text, is_kind in zip(texts, kinds, strict=True) if is_kind == kind]
        if some:
            encoded = lm.tokenizer(some, verbose=False, **how)["input_ids"]
            found.update(zip(some, encoded, strict=True))
    return [found[text] for text in texts]


class EncodedAhead:
    """Tokens of texts, encoded ahead in order.

    lm-eval encodes one text at a time, a question's prompt again for each of its choices. A fast
    tokenizer encodes a list of texts on all cores.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[str, str]],
        encode: Callable[[list[str]], list[list[int]]],
    ) -> None:
        """Store the texts; nothing is encoded.

        Args:
            pairs: Context and continuation of each request.
            encode: Encodes many texts, with the result of encoding them one by one.
        """
        self._pairs = pairs
        self._encode = encode
        self._next = 0
        self._held: dict[str, list[int]] = {}

    def get(self, text: str) -> list[int] | None:
        """Tokens of a text (read-only); None for an unknown text."""
        if text not in self._held and self._next < len(self._pairs):
            some = self._pairs[self._next : self._next + _AT_A_TIME]
            self._next += len(some)
            texts = {
                text: None
                for context, continuation in some
                if context
                # Spaces at the end of a context go to the continuation.
                for text in (context.rstrip(), context + continuation)
            }
            self._held = dict(zip(texts, self._encode([*texts]), strict=True))
        return self._held.get(text)


class Scorer:
    """Scorer of log-likelihood requests of lm-eval's ``hf`` model.

    Attributes:
        tokens: Tokens that scoring has computed so far, and that ``hf`` would have (``plain``): one
            row for each distinct input.
    """

    def __init__(self, lm: Any) -> None:
        """Store the model; nothing is computed.

        Args:
            lm: An ``HFLM`` with ``prefix_reuse``; need not have loaded its model yet.
        """
        self._lm = lm
        self._runner: Runner | None = None
        self._told_plain = False
        self.tokens = {"computed": 0, "plain": 0}

    @property
    def usable(self) -> bool:
        """Whether log-likelihoods are computed here; where not, the reason is logged once."""
        if not self._lm.prefix_reuse:
            return False
        reason = self._why_plain()
        if reason is not None and not self._told_plain:
            self._told_plain = True
            _LOGGER.warning("Log-likelihoods are computed as by lm-eval's hf model: %s.", reason)
        return reason is None

    def _why_plain(self) -> str | None:
        if self._lm.backend != "causal":
            return "it is an encoder-decoder model"
        if not isinstance(self._lm.model, torch.nn.Module):
            return "it is not a PyTorch module"
        if getattr(self._lm.model, "tp_size", None):
            return "the model is tensor parallel"
        adapters = getattr(self._lm.model, "peft_config", None) or {}
        if any(getattr(one, "is_prompt_learning", False) for one in adapters.values()):
            return "an adapter adds virtual tokens to every prompt"
        kind = getattr(getattr(self._lm, "accelerator", None), "distributed_type", None)
        if kind is not None and kind.name in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
            return "all processes must run the same number of forward passes"
        return None

    def loglikelihoods(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        *,
        disable_tqdm: bool = False,
    ) -> list[Answer]:
        """Answer ``_loglikelihood_tokens`` requests: text, context tokens, continuation tokens."""
        asked = [self._request(context, continuation) for _, context, continuation in requests]
        texts: dict[Request, list[tuple[str, str]]] = {}
        for (text, _, _), request in zip(requests, asked, strict=True):
            # Rolling windows have no text of their own.
            if text is not None:
                texts.setdefault(request, []).append(text)

        def note(request: Request, answer: Answer) -> None:
            for text in texts.get(request, ()):
                self._lm.cache_hook.add_partial("loglikelihood", text, answer)

        answers = self._score(asked, "scoring", disable_tqdm, note)
        return [answers[request] for request in asked]

    def rolling(self, requests: Sequence[Any], *, disable_tqdm: bool = False) -> list[float]:
        """Answer ``loglikelihood_rolling`` instances; logits of a text are computed in pieces."""
        windows = [self._rolling_windows(request.args[0]) for request in requests]
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
            self._lm.cache_hook.add_partial("loglikelihood_rolling", arguments, totals[index])

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
        """Float32 log-likelihood of each window's tokens after the first.

        Args:
            windows: Of this process; at least 2 tokens each, and no more than the context.

        Returns:
            The sums over each window's predicted tokens.
        """
        asked = [self._request([window[0]], [*window[1:]]) for window in windows]
        answers = self._score(asked, "rolling", together=False)
        return [answers[request][0] for request in asked]

    def _rolling_windows(self, text: str) -> list[Request]:
        windows = get_rolling_token_windows(
            token_list=self._lm.tok_encode(text),
            prefix_token=self._lm.prefix_token_id,
            max_seq_len=self._lm.max_length,
            context_len=1,
        )
        return [self._request(*make_disjoint_window(window)) for window in windows]

    def _request(self, context: list[int], continuation: list[int]) -> Request:
        if context and not continuation:
            raise SettingsError(
                f"Tokenizer {self._lm.tokenizer.name_or_path}: an answer merges with the last "
                "token of its prompt, so it has no token to score. Let the prompt end without a "
                "space and put it in target_delimiter, or give another tokenizer."
            )
        if not context or len(continuation) > self._lm.max_length:
            raise SettingsError(
                f"A request has {len(context)} tokens of context and {len(continuation)} to score; "
                f"at least 1 of each is needed, and at most {self._lm.max_length} to score. "
                "Shorten the task's answers, or raise max_length."
            )
        return make_request(context, continuation, self._lm.max_length)

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
        together = together and self._lm.world_size > 1 and self._lm.cache_hook.dbdict is None
        requests = all_requests(asked) if together else sorted(set(asked))
        if not requests:
            return {}
        runner = self.runner()
        size = batch_size_of(self._lm, kind)
        plan = self._plan(runner, requests, size, together)
        ranks = (self._lm.rank, self._lm.world_size) if together else (0, 1)
        steps = my_steps(plan, *ranks)
        scores = Scores(plan.scores)
        mine = set(asked)
        answers = Answers(requests, plan, scores)
        tokens = sum(len(part) for step in steps for part in plan.inputs(plan.steps[step]))
        with tqdm(
            total=tokens, desc=f"log-likelihoods ({kind})", unit="token", unit_scale=True,
            disable=disable_tqdm or self._lm.rank != 0,
        ) as bar:  # fmt: skip

            def tell(computed: int, found: Any) -> None:
                self.tokens["computed"] += computed
                bar.update(computed)
                if note is not None and not together:
                    for request in answers.finished(found):
                        note(request, answers[request])

            runner.run(plan, steps, scores, size, tell)
        self.tokens["plain"] += plan.plain_tokens
        if together:
            merge_scores(scores)
            if note is not None:
                for request in sorted(mine):
                    note(request, answers[request])
        return {request: answers[request] for request in mine}

    def runner(self) -> Runner:
        """Runner of the model in its present state."""
        if self._runner is None or self._runner.model is not self._lm.model:
            dtype = self._lm.mixed_precision_dtype
            self._runner = Runner(
                self._lm.model,
                torch.device(self._lm.device),
                self._lm.softmax_dtype,
                lambda: torch.autocast(
                    device_type=torch.device(self._lm.device).type,
                    dtype=dtype,
                    enabled=dtype is not None,
                ),
            )
        return self._runner

    def _plan(
        self, runner: Runner, requests: list[Request], size: BatchSize, together: bool
    ) -> Plan:
        """Cheapest plan that is correct for this model; equal on all processes."""
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
