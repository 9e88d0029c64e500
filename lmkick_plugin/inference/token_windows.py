# SPDX-License-Identifier: Apache-2.0
"""Token perplexity as in the pruning papers: mean loss over whole windows of one text."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from compressors.calibration import first_token
from compressors.errors import SettingsError
from lmkick_plugin.data.order import spread

__all__ = [
    "articles_of_windows",
    "batch_size_for",
    "cut_windows",
    "encode_text",
    "score_windows",
    "window_losses",
]

_POSITIONS_AT_ONCE = 128


def encode_text(model: Any, text: str, bos: str) -> tuple[Any, list[int]]:
    """Encode a text that will be cut into windows.

    Args:
        model: A ``KickLM``.
        text: The whole text.
        bos: Whether BOS begins every window: ``auto`` leaves it to the model's own argument, and
            that to the tokenizer; ``always``, ``never``.

    Returns:
        The text as the tokenizer returns it, and the tokens that begin each window. Without BOS,
        the special tokens that the tokenizer adds stay with the text.
    """
    special: dict[str, Any] = {}
    if model.add_bos_token is not None:
        special = {"add_special_tokens": bool(model.add_bos_token)}
    if bos == "auto":
        recipe = getattr(model, "recipe", None)
        bos = "auto" if recipe is None else recipe.bos
    begin = first_token(model.tokenizer, bos, **special)
    if begin is not None or bos == "never":
        special = {"add_special_tokens": False}
    # verbose=False: the text is meant to be longer than the context, no need to warn.
    encoding = model.tokenizer(text, verbose=False, **special)
    return encoding, [] if begin is None else [begin]


def cut_windows(
    token_ids: list[int], length: int, limit: int | None, begin: Sequence[int] = ()
) -> Tensor:
    """Cut tokens into windows without overlap; an incomplete last one is dropped.

    Args:
        token_ids: The tokens of the whole text.
        length: Tokens of a window, at least 2.
        limit: Number of windows to use; None for all.
        begin: Tokens that begin each window, fewer than ``length``.

    Returns:
        int64 ``[windows, length]``, in an order in which every prefix is spread over the text.

    Raises:
        SettingsError: The text does not fill one window.
    """
    own = length - len(begin)
    count = len(token_ids) // own
    if count == 0:
        raise SettingsError(
            f"The text has {len(token_ids)} tokens, fewer than one window of {length}. Give a "
            f"longer text, or a max_length below {length}."
        )
    text = torch.tensor(token_ids[: count * own], dtype=torch.long).view(count, own)
    windows = torch.cat([torch.tensor([*begin], dtype=torch.long).repeat(count, 1), text], dim=1)
    return windows[spread(count)[:limit]]


def window_losses(logits: Tensor, token_ids: Tensor) -> Tensor:
    """Mean loss of each window's predicted tokens.

    The softmax is float32 for any model dtype, a few positions at a time: over a large
    vocabulary a float32 copy of all logits would need several times the model's own output.

    Args:
        logits: ``[batch, length, vocabulary]``, any float dtype.
        token_ids: int64 ``[batch, length]``; token ``t + 1`` is predicted at position ``t``.

    Returns:
        float64 ``[batch]``, each the mean over ``length - 1`` tokens.
    """
    targets = token_ids[:, 1:]
    precise = torch.float32 if logits.device.type == "mps" else torch.float64
    total = torch.zeros(len(token_ids), dtype=precise, device=logits.device)
    for start in range(0, targets.shape[1], _POSITIONS_AT_ONCE):
        wanted = targets[:, start : start + _POSITIONS_AT_ONCE]
        scores = logits[:, start : start + wanted.shape[1]].float()
        losses = functional.cross_entropy(scores.flatten(0, 1), wanted.flatten(), reduction="none")
        total += losses.view_as(wanted).to(precise).sum(dim=1)
    return (total / targets.shape[1]).double().cpu()


def articles_of_windows(
    encoding: Any, text: str, length: int, articles: Sequence[tuple[str, int]]
) -> list[str]:
    """Article at the middle of each window.

    Args:
        encoding: The text as the tokenizer returned it.
        text: The whole text.
        length: Tokens of a window, without those that begin it.
        articles: Name of each article and the characters before it, in the order of the text.

    Returns:
        Names, in the order of :func:`cut_windows`.
    """
    names, starts = zip(*articles, strict=True)
    tokens = len(encoding.input_ids)
    found = []
    for number in spread(tokens // length):
        middle = number * length + length // 2
        span = encoding.token_to_chars(middle) if encoding.is_fast else None
        at = span.start if span else len(text) * middle // tokens  # tokenizers without offsets
        found.append(names[max(0, bisect_right(starts, at) - 1)])
    return found


def score_windows(
    model: Any,
    text: str,
    *,
    limit: int | None = None,
    max_window: int = 2048,
    bos: str = "auto",
    articles: Sequence[tuple[str, int]] = (("0", 0),),
) -> dict[str, Any]:
    """Score this process's share of a text's windows.

    Windows hold ``min(max_window, context)`` tokens, BOS included where it begins them.

    Args:
        model: A ``KickLM``.
        text: The whole text.
        limit: Number of windows (of all processes together); None for all.
        max_window: Longest window.
        bos: See :func:`encode_text`.
        articles: Name of each article and the characters before it, in the order of the text.

    Returns:
        ``nll``: loss summed over the predicted tokens of this process's windows; ``tokens``: how
        many those are; ``windows``; ``bos``: whether BOS began them; ``window_losses``: mean loss
        of each window; ``window_clusters``: the article that most of it lies in. Token perplexity
        is the exponential of the mean of ``window_losses`` over all processes.

    Raises:
        SettingsError: The text is shorter than one window, or a limit or window makes no sense.
    """
    if limit is not None and limit < 1:
        raise SettingsError(f"limit={limit}: expected a number of windows of at least 1.")
    length = min(max_window, model.max_length)
    if length < 2:
        raise SettingsError(f"Windows of {length} tokens predict nothing. Give at least 2.")
    encoding, begin = encode_text(model, text, bos)
    share = slice(model.rank, None, model.world_size)
    windows = cut_windows(encoding.input_ids, length, limit, begin)[share]
    own = length - len(begin)
    clusters = articles_of_windows(encoding, text, own, articles)[:limit][share]
    predicted = length - 1
    scorer = getattr(model, "scorer", None)
    if scorer is not None and scorer.usable and model.softmax_dtype == torch.float32:
        # No window's logits over the whole vocabulary are held at once.
        losses = [-found / predicted for found in scorer.window_log_likelihoods(windows.tolist())]
    else:
        losses = _losses_by_batch(model, windows)
    return {
        "nll": sum(losses) * predicted,
        "tokens": len(losses) * predicted,
        "windows": len(losses),
        "bos": bool(begin),
        "window_losses": losses,
        "window_clusters": clusters,
    }


def _losses_by_batch(model: Any, windows: Tensor) -> list[float]:
    """Mean loss of each window from whole logits, as in ``hf``."""
    batch_size = batch_size_for(model, windows.shape[1])
    losses: list[float] = []
    with tqdm(total=len(windows), desc="Scoring windows", disable=model.rank != 0) as bar:
        for start in range(0, len(windows), batch_size):
            batch = windows[start : start + batch_size].to(model.device)
            losses += window_losses(model._model_call(batch), batch).tolist()
            bar.update(len(batch))
    return losses


def batch_size_for(model: Any, length: int) -> int:
    """Sequences of ``length`` tokens per batch; ``auto`` is measured."""
    if str(model.batch_size) != "auto":
        return int(model.batch_size)
    # Tried out at the length that is used; lm-eval's own default is the whole context.
    return int(model._detect_batch_size([(None, [0] * length, [0])]))
