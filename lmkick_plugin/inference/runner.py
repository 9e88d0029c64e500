# SPDX-License-Identifier: Apache-2.0
"""Runner of forward passes.

The model's cache is checked once, before anything is reused, and the first prefix that is reused
is computed both ways: unless they agree, the log says so and nothing is reused with this model.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmkick_plugin.inference.batch_sizes import BatchSize, give_back_memory, is_out_of_memory
from lmkick_plugin.inference.prefix_cache import (
    Prefix,
    Window,
    continue_prefix,
    layer_windows,
    new_prefix,
    why_not_shared,
)
from lmkick_plugin.inference.prefix_plan import Plan, Step, batch_length
from lmkick_plugin.inference.scored_positions import Positions
from lmkick_plugin.inference.scores import Scores
from lmkick_plugin.metrics.rows import rows_at_once

__all__ = ["Runner"]

_LOGGER = logging.getLogger(__name__)

#: How far logits with and without reuse may lie apart, relative to their spread.
_AGREEMENT = {torch.float64: 1e-3, torch.float32: 1e-3}
_COARSE_AGREEMENT = 0.1
#: What a forward pass costs beside its tokens, in tokens: weights are read, kernels are started.
_OVERHEAD_CPU = 32
_OVERHEAD = 512


class Runner:
    """Runs the steps of plans with one model."""

    def __init__(
        self, model: Any, device: torch.device, softmax_dtype: torch.dtype | None, autocast: Any
    ) -> None:
        """Store the model; nothing is run.

        Args:
            model: A transformers causal language model.
            device: Where its inputs go.
            softmax_dtype: Of log-probabilities; None for the model's.
            autocast: Makes the context in which the model runs.
        """
        self.model = model
        self.positions = Positions(model)
        self.device = device
        self.softmax_dtype = softmax_dtype
        self._autocast = autocast
        self._windows: tuple[Window, ...] | None = None
        self._looked = self._checked = self._told_long = False
        parameters = inspect.signature(model.forward).parameters
        any_name = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
        self._takes_use_cache = any_name or "use_cache" in parameters

    @property
    def overhead(self) -> int:
        """Fixed cost of a forward pass, in tokens."""
        return _OVERHEAD_CPU if self.device.type == "cpu" else _OVERHEAD

    def can_share(self, row: Sequence[int]) -> bool:
        """Whether prefixes can be shared; the reason is logged where not.

        Args:
            row: Tokens to try the model with, at least one.
        """
        if not self._looked:
            self._looked = True
            reason = self._look([*row][:8])
            if reason is not None:
                self._say_plain(reason)
        return self._windows is not None

    def _look(self, row: list[int]) -> str | None:
        config = self.model.config
        text = getattr(config, "text_config", None) or config
        if not self._takes_use_cache:
            return "its forward pass has no argument use_cache"
        if not getattr(text, "is_causal", True):
            return "its attention also looks ahead"
        with self._quiet():
            output = self.model(input_ids=torch.tensor([row], device=self.device), use_cache=True)
        cache: Any = getattr(output, "past_key_values", None)
        reason = why_not_shared(cache, len(row))
        if reason is None:
            self._windows = layer_windows(cache)
        return reason

    def _say_plain(self, reason: str) -> None:
        self._windows = None
        _LOGGER.warning(
            "Prefixes are not shared with %s: %s.",
            type(self.model).__name__,
            reason,
        )

    def fits(self, longest: int) -> bool:
        """Whether rows are short enough that positions do not depend on their length.

        Positions of some models (dynamic and long RoPE scaling) are computed otherwise for rows
        beyond a length; a prefix computed for a short row must not be continued to a long one.

        Args:
            longest: Tokens of the longest row.
        """
        limit = self._longest_shared()
        if limit is None or longest <= limit:
            return True
        if not self._told_long:
            self._told_long = True
            _LOGGER.warning(
                "Prefixes are not shared: beyond %d tokens, positions of %s depend on the length "
                "of the row.",
                limit, type(self.model).__name__,
            )  # fmt: skip
        return False

    def _longest_shared(self) -> int | None:
        config = getattr(self.model.config, "text_config", None) or self.model.config
        rope = getattr(config, "rope_parameters", None) or {}
        limits = []
        for one in (rope, *(value for value in rope.values() if isinstance(value, dict))):
            if one.get("rope_type", one.get("type")) in ("dynamic", "longrope"):
                limits.append(
                    one.get("original_max_position_embeddings")
                    or getattr(config, "original_max_position_embeddings", None)
                    or config.max_position_embeddings
                )
        return min(limits, default=None)

    def agrees(self, plan: Plan) -> bool:
        """Whether the first shared prefix gives the model's own logits; checked once."""
        step = next((one for one in plan.steps if one.end is None and one.prefix >= 0), None)
        if step is None or self._checked:
            return True
        self._checked = True
        row = plan.rows[step.rows[0]]
        chain: list[Step] = []
        number = step.prefix
        while number >= 0:
            chain.append(plan.steps[number])
            number = plan.steps[number].prefix
        prefix: Prefix | None = None
        for one in reversed(chain):
            prefix = self._prefix(row[one.start : one.end], prefix)
        reused = self._last_logits(row[step.start :], prefix)
        whole = self._last_logits(row, None)
        apart = torch.linalg.vector_norm(reused - whole)
        spread = torch.linalg.vector_norm(whole - whole.mean())
        allowed = _AGREEMENT.get(self.model.dtype, _COARSE_AGREEMENT)
        if float(apart) <= allowed * float(spread) or not bool(torch.isfinite(whole).all()):
            return True
        self._say_plain(
            f"sharing the first prefix changed logits by {float(apart / spread):.2g} of their "
            f"spread, more than {allowed:g}"
        )
        return False

    def _last_logits(self, row: NDArray[np.int64], prefix: Prefix | None) -> Tensor:
        tokens = torch.from_numpy(row[None]).to(self.device)
        last = torch.tensor([tokens.shape[1] - 1], device=self.device)
        with self._quiet():
            (logits,) = self.positions.chunks(tokens, last, **self._how(prefix))
        return logits[0].float()

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Context in which ``hf`` calls a model: no gradients, the requested precision."""
        with torch.no_grad(), self._autocast():
            yield

    def _how(self, prefix: Prefix | None) -> dict[str, Any]:
        """Model arguments for rows that continue a prefix."""
        if prefix is not None and self._windows is not None:
            cache = continue_prefix(self._windows, prefix, keep=False)
            return {"past_key_values": cache, "use_cache": True}
        return {"use_cache": False} if self._takes_use_cache else {}

    def run(
        self, plan: Plan, mine: Iterable[int], scores: Scores, size: BatchSize, tell: Any
    ) -> None:
        """Run steps of a plan in order, computing prefixes when needed.

        Args:
            plan: With or without reuse.
            mine: Numbers of the steps to run, ascending; with each, the prefixes it continues.
            scores: Where results go.
            size: Rows of a forward pass.
            tell: Called after each step with its tokens and the numbers of its scores.
        """
        wanted = list(mine)
        last_use = {plan.steps[number].prefix: number for number in wanted}
        held: dict[int, Prefix] = {}
        for number in wanted:
            step = plan.steps[number]
            if step.end is None:
                self._batch(plan, step, held.get(step.prefix), scores, size)
            else:
                (tokens,) = plan.inputs(step)
                before = held.get(step.prefix)
                held[number] = self._prefix(tokens, before, step.scored, scores)
            if last_use.get(step.prefix) == number:
                held.pop(step.prefix, None)
            tell(sum(map(len, plan.inputs(step))), step.scored[:, 3])

    def _prefix(
        self,
        tokens: NDArray[np.int64],
        before: Prefix | None,
        scored: NDArray[np.int64] | None = None,
        scores: Scores | None = None,
    ) -> Prefix:
        """Compute a prefix, and scores inside it."""
        if self._windows is None:
            raise RuntimeError(
                "A prefix was planned for a model that cannot share any. This is a "
                "bug; please report the model."
            )
        cache = continue_prefix(self._windows, before, keep=True)
        how = {"past_key_values": cache, "use_cache": True}
        self._forward([tokens], scored, how, scores)
        return new_prefix(cache, len(tokens) + (before.length if before else 0))

    def _batch(
        self, plan: Plan, step: Step, prefix: Prefix | None, scores: Scores, size: BatchSize
    ) -> None:
        """Run a batch, in parts where memory runs out."""
        length = batch_length(max(len(plan.rows[row]) for row in step.rows), step.start)
        rows = len(step.rows)
        if rows <= size.rows(length):
            try:
                self._forward(plan.inputs(step), step.scored, self._how(prefix), scores)
            except (RuntimeError, MemoryError) as error:
                if rows == 1 or not is_out_of_memory(error):
                    raise
            else:
                size.fitted(rows, length)
                return
            # Out here, the error no longer holds the frames in which the memory is.
            size.ran_out(rows, length)
            give_back_memory()
        part = min(size.rows(length), rows - 1)
        for first in range(0, rows, part):
            some = step.rows[first : first + part]
            inside = (step.scored[:, 0] >= first) & (step.scored[:, 0] < first + len(some))
            scored = step.scored[inside] - np.array([first, 0, 0, 0])
            self._batch(
                plan, Step(step.prefix, step.start, some, None, scored), prefix, scores, size
            )

    def _forward(
        self,
        rows: Sequence[NDArray[np.int64]],
        scored: NDArray[np.int64] | None,
        how: dict[str, Any],
        scores: Scores | None,
    ) -> None:
        """Run one forward pass; results leave the device once."""
        width = max(map(len, rows))
        padded = np.zeros((len(rows), width), dtype=np.int64)
        for at, row in enumerate(rows):
            padded[at, : len(row)] = row
        tokens = torch.from_numpy(padded).to(self.device)
        if scored is None or scores is None or not len(scored):
            with self._quiet():
                for _ in self.positions.chunks(tokens, torch.zeros(1, dtype=torch.long), **how):
                    pass
            return
        flat = scored[:, 0] * width + scored[:, 1]
        places, which = np.unique(flat, return_inverse=True)
        order = np.argsort(which, kind="stable")
        which, targets = which[order], scored[order, 2]
        found: list[Tensor] = []
        done = 0
        with self._quiet():
            for chunk in self.positions.chunks(tokens, torch.from_numpy(places), **how):
                for logits in torch.split(chunk, rows_at_once(chunk.shape[-1], chunk.device)):
                    begin, end = np.searchsorted(which, [done, done + len(logits)])
                    found.append(self._look_up(logits, which[begin:end] - done, targets[begin:end]))
                    done += len(logits)
        scores.put(scored[order, 3], torch.cat(found, dim=1).cpu().numpy())

    def _look_up(
        self, logits: Tensor, which: NDArray[np.int64], targets: NDArray[np.int64]
    ) -> Tensor:
        """Log-probabilities of tokens ``[2, n]``, and 1 for the likeliest token."""
        at = torch.from_numpy(which).to(logits.device)
        wanted = torch.from_numpy(targets).to(logits.device)
        log_probabilities = torch.log_softmax(logits, dim=-1, dtype=self.softmax_dtype)
        likeliest = log_probabilities.argmax(dim=-1)[at] == wanted
        picked = log_probabilities[at, wanted]
        if picked.dtype != torch.float64:
            picked = picked.float()
        return torch.stack((picked, likeliest.to(picked.dtype)))
