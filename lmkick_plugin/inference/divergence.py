# SPDX-License-Identifier: Apache-2.0
"""Serve ``divergence`` requests: distance of a model from its dense reference on texts.

Positions are streamed. The evaluated model's logits of a few batches are kept in main memory, in
the model's own dtype and at most :data:`HELD_BYTES` of them; then the reference's are computed and
compared, a few rows in float32 at a time. So memory does not grow with the text, and weights change
places twice in each such round. What the reference computes is kept for the next cell of a sweep
(:mod:`.kept_logits`), up to a bound.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from compressors.errors import SettingsError
from lmkick_plugin.inference.kept_logits import KeptLogits
from lmkick_plugin.inference.scoring import encode_many
from lmkick_plugin.inference.token_windows import batch_size_for, encode_text
from lmkick_plugin.inference.truncation import cut_left
from lmkick_plugin.loading.reference import Reference
from lmkick_plugin.metrics.divergence import DivergenceError, divergence, first_divergent_token

__all__ = ["HELD_BYTES", "measure"]

logger = logging.getLogger(__name__)

#: Logits of the evaluated model that wait for the reference's.
HELD_BYTES = 2 << 30
_BATCH_BYTES = 1 << 30  # of one batch's logits on the device


@dataclass
class _Text:
    """One request: its tokens and results so far."""

    windows: list[list[int]]
    opening: list[int]
    new_tokens: int
    cut: bool
    jsd: float = 0.0
    kl: float = 0.0
    agreement: int = 0
    positions: int = 0
    generations: list[list[int]] = field(default_factory=list)

    def answer(self, reference: str, vocabulary: int) -> dict[str, Any]:
        first = first_divergent_token(*self.generations) if self.generations else None
        return {
            "jsd": self.jsd,
            "kl": self.kl,
            "top1_agreement": self.agreement,
            "positions": self.positions,
            "first_divergent_token": first,
            "generated": [len(tokens) for tokens in self.generations],
            "cut": self.cut,
            "vocabulary": vocabulary,
            "reference": reference,
        }


def measure(model: Any, reference: Reference, requests: Sequence[Any]) -> list[dict[str, Any]]:
    """Measure divergences on texts.

    Args:
        model: A ``KickLM``.
        reference: The dense side.
        requests: Instances whose arguments are a text and a mapping: ``max_window``, the longest
            window; ``bos``, whether BOS begins it (:func:`.token_windows.encode_text`); ``whole``:
            the text is a prompt, one window, cut from the left where it is too long (otherwise it
            is cut into windows without overlap, a short last one included); ``prompt_tokens``:
            after how many tokens of a text that is not a prompt to generate; ``new_tokens``: how
            many to generate, 0 for none.

    Returns:
        For each: ``jsd``, ``kl`` (bits) and ``top1_agreement``, each summed over all ``positions``
        of its windows; ``first_divergent_token`` (None where nothing was generated) and the
        lengths of both generations; ``cut``, whether a prompt did not fit the context;
        ``vocabulary``; ``reference``. NaN where a model's logits give no distribution, which is
        logged.
    """
    texts = [_encode(model, *instance.args) for instance in requests]
    with torch.inference_mode(False), torch.no_grad():
        vocabulary = _teacher_forced(model, reference, texts)
        _generate(model, reference, texts)
    return [text.answer(reference.name, vocabulary) for text in texts]


def _encode(model: Any, text: str, settings: dict[str, Any]) -> _Text:
    whole, new_tokens = bool(settings["whole"]), int(settings["new_tokens"])
    length = min(int(settings["max_window"]), int(model.max_length))
    if length < 1:
        raise SettingsError(f"max_window={settings['max_window']}: expected at least 1 token.")
    new_tokens = min(new_tokens, int(model.max_length) - 1)
    room = int(model.max_length) - new_tokens
    cut = False
    if whole:
        # As the tasks' own requests: a chat template may have written BOS already.
        (token_ids,) = encode_many(model, [text])
        windows = [cut_left(token_ids, length)[0]]
        opening, cut = cut_left(token_ids, room)
    else:
        encoding, begin = encode_text(model, text, str(settings.get("bos", "auto")))
        token_ids = list(encoding.input_ids)
        own = max(1, length - len(begin))
        windows = [begin + token_ids[at : at + own] for at in range(0, len(token_ids), own)]
        opening = (begin + token_ids)[: min(room, int(settings["prompt_tokens"]))]
    return _Text(
        windows=[window for window in windows if window],
        opening=opening,
        new_tokens=new_tokens if opening else 0,
        cut=cut,
    )


# --- teacher-forced text --------------------------------------------------------------------------


def _teacher_forced(model: Any, reference: Reference, texts: Sequence[_Text]) -> int:
    """Sum divergences over every position; returns the size of the vocabulary."""
    windows = [(text, window) for text in texts for window in text.windows]
    windows.sort(key=lambda pair: -len(pair[1]))  # little padding, and the largest batch first
    vocabulary = 0
    dense = KeptLogits(reference)
    with _bar(model, len(windows), "Divergence") as bar:
        held: list[tuple[list[tuple[_Text, list[int]]], Tensor]] = []
        size = 0
        for batch in _batches(model, windows):
            logits = model._model_call(_padded(model, batch)).to("cpu")
            vocabulary = logits.shape[-1]
            held.append((batch, logits))
            size += logits.numel() * logits.element_size()
            if size >= HELD_BYTES:
                _compare(reference, dense, held, bar)
                held, size = [], 0
        _compare(reference, dense, held, bar)
    return vocabulary


def _batches(
    model: Any, windows: list[tuple[_Text, list[int]]]
) -> Iterator[list[tuple[_Text, list[int]]]]:
    """Batches of as many windows as were asked for, fewer where logits would be too large."""
    if not windows:
        return
    longest = len(windows[0][1])
    config = getattr(model.config, "text_config", None) or model.config
    row = 4 * longest * int(getattr(config, "vocab_size", 1))
    step = max(1, min(batch_size_for(model, longest), _BATCH_BYTES // row))
    for start in range(0, len(windows), step):
        yield windows[start : start + step]


def _padded(model: Any, batch: Sequence[tuple[_Text, list[int]]]) -> Tensor:
    # Padding on the right, as lm-eval pads: no position sees what comes after it.
    width = len(batch[0][1])
    rows = [window + [0] * (width - len(window)) for _, window in batch]
    return torch.tensor(rows, dtype=torch.long, device=model.device)


def _compare(
    reference: Reference,
    dense_logits: KeptLogits,
    held: Sequence[tuple[list[tuple[_Text, list[int]]], Tensor]],
    bar: Any,
) -> None:
    if not held:
        return
    with nullcontext() if reference.same else reference.ready():
        for batch, kept in held:
            dense = kept if reference.same else dense_logits(_padded(reference.model, batch))
            for row, (text, window) in enumerate(batch):
                evaluated = kept[row, : len(window)].to(dense.device)
                _add(text, dense[row, : len(window)], evaluated)
            bar.update(len(batch))


def _add(text: _Text, dense: Tensor, evaluated: Tensor) -> None:
    text.positions += len(dense)
    try:
        found = divergence(dense, evaluated)
    except DivergenceError as error:
        # A model that compression has broken must not take the other tasks' results with it.
        logger.warning("A divergence is NaN: %s", error)
        text.jsd = text.kl = math.nan
        return
    text.jsd += float(found.jsd.double().sum())
    text.kl += float(found.kl.double().sum())
    text.agreement += int(found.top1_agreement.sum())


# --- greedy generations ---------------------------------------------------------------------------


def _generate(model: Any, reference: Reference, texts: Sequence[_Text]) -> None:
    """Generate continuations with both models."""
    asked = sorted((text for text in texts if text.new_tokens), key=lambda t: -len(t.opening))
    if not asked:
        return
    sides = [model] if reference.same else [model, reference.model]
    step = batch_size_for(model, len(asked[0].opening) + asked[0].new_tokens)
    with _bar(model, len(asked) * len(sides), "Generating") as bar:
        for number, side in enumerate(sides):
            with reference.ready() if number else nullcontext():
                for start in range(0, len(asked), step):
                    batch = asked[start : start + step]
                    once = reference.once if number else None
                    openings = [[text.opening, text.new_tokens] for text in batch]
                    find = partial(_continue, side, batch)
                    found = once(["greedy", openings], find) if once else find()
                    for text, tokens in zip(batch, found, strict=True):
                        text.generations += [tokens, tokens] if reference.same else [tokens]
                    bar.update(len(batch))


def _continue(model: Any, batch: Sequence[_Text]) -> list[list[int]]:
    """Greedy continuations, each up to and including its end-of-text token."""
    width = len(batch[0].opening)
    pad = model.tokenizer.pad_token_id
    rows = [[pad] * (width - len(text.opening)) + text.opening for text in batch]
    mask = [[0] * (width - len(text.opening)) + [1] * len(text.opening) for text in batch]
    whole = model._model_generate(
        context=torch.tensor(rows, dtype=torch.long, device=model.device),
        attention_mask=torch.tensor(mask, dtype=torch.long, device=model.device),
        max_length=width + batch[0].new_tokens,
        stop=[],
        do_sample=False,
    )
    stated = getattr(model.model.generation_config, "eos_token_id", None)
    ends = set(stated) if isinstance(stated, list | tuple) else {stated}
    generated = []
    for row in whole[:, width:].tolist():
        length = next((at + 1 for at, token in enumerate(row) if token in ends), len(row))
        generated.append(row[:length])
    return generated


def _bar(model: Any, total: int, what: str) -> Any:
    return tqdm(total=total, desc=what, disable=model.rank != 0)
