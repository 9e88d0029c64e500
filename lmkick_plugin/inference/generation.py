# SPDX-License-Identifier: Apache-2.0
"""``generate_until`` by continuous batching, with the same answers as lm-eval's ``hf`` model.

Prompts are encoded once, equal ones are answered once unless they are sampled, and all requests of
a run go through one running batch, with any limits, stop strings and temperatures. What
cannot be decoded there as ``generate`` would goes to ``hf``, and the log says why.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from tqdm import tqdm

from lmkick_plugin.inference.batch_sizes import batch_size_of
from lmkick_plugin.inference.continuous_batching import Answer, decode
from lmkick_plugin.inference.decoding_support import Decoding, find_decoding
from lmkick_plugin.inference.sampling import sampling_of
from lmkick_plugin.inference.stop_strings import StopStrings
from lmkick_plugin.inference.thoughts import Thoughts, log_thoughts, may_think
from lmkick_plugin.inference.truncation import cut_left

__all__ = ["generate_until"]

_LOGGER = logging.getLogger(__name__)

#: Prompts that are encoded at a time.
_AT_A_TIME = 1024

#: Settings of a request, in a form that can be compared.
_Settings = str


def generate_until(
    lm: Any,
    requests: Sequence[Any],
    plain: Callable[[list[Any]], list[str]],
    *,
    disable_tqdm: bool = False,
) -> list[str]:
    """Answer ``generate_until`` requests like ``hf``.

    Each answer is what ``hf`` gives to that request alone, with ``batch_size=1``, up to rounding:
    in float32, where two tokens differ by less than that in their scores; in bfloat16, where they
    are nearly equal, as between two batch sizes of ``hf``. Samples come from the distribution of
    ``hf`` by other random numbers (:mod:`lmkick_plugin.inference.sampling`).

    Args:
        lm: A ``KickLM``.
        requests: lm-eval instances: a prompt and generation settings.
        plain: Answers some of them as ``hf`` does.
        disable_tqdm: Show no progress.

    Returns:
        The answers, in order.
    """
    plans: dict[_Settings, _Plan | str] = {}
    for request in requests:
        key = repr(request.args[1])
        if key not in plans:
            plans[key] = _plan(lm, request.args[1])
    jobs, left_over = _sort_out(lm, requests, plans)
    results: dict[int, str] = {}
    if jobs:
        _answer(lm, requests, jobs, results, hidden=disable_tqdm or lm.rank != 0)
        _log_thoughts(requests, jobs)
    if left_over:
        others = plain([requests[index] for index in left_over])
        results.update(zip(left_over, others, strict=True))
    return [results[index] for index in range(len(requests))]


class _Plan:
    """Decoding of requests with certain settings."""

    def __init__(self, lm: Any, settings: dict[str, Any], decoding: Decoding) -> None:
        normal = normalize_gen_kwargs(settings, lm.max_gen_toks)
        eos = lm.tok_decode(lm.eot_token_id, skip_special_tokens=False)
        self.until: list[str] = handle_stop_sequences(normal["until"], eos=eos)
        self.limit = int(normal["max_gen_toks"])
        self.decoding = decoding
        self.stops = StopStrings(lm.tokenizer, self.until)

    def answer(self, lm: Any, text: str, prompt: list[int], sample: int) -> Answer:
        stops = Thoughts(lm, text, self.stops, self.until) if may_think(lm) else self.stops
        warp = self.decoding.warp
        sampling = None if warp is None else sampling_of(warp, text, sample, self.limit)
        return Answer(prompt, self.limit, self.decoding.ends, stops, sampling)


def _plan(lm: Any, settings: Any) -> _Plan | str:
    """Plan the decoding of requests, or state why ``hf`` has to answer them."""
    if not isinstance(settings, dict) or "max_length" in settings:
        return _say_plain("max_length is among the task's settings")
    normal = normalize_gen_kwargs(settings, lm.max_gen_toks)
    limit = int(normal.pop("max_gen_toks"))
    normal.pop("until")
    if not 0 < limit < lm.max_length:
        return _say_plain(f"max_gen_toks is {limit}")
    decoding = find_decoding(lm, normal, limit)
    if isinstance(decoding, str):
        return _say_plain(decoding)
    return _Plan(lm, settings, decoding)


@functools.lru_cache(maxsize=64)
def _say_plain(reason: str) -> str:
    """Log a reason once, and return it."""
    _LOGGER.info("Generation by lm-eval's hf model, one batch at a time: %s.", reason)
    return reason


class _Job:
    """A prompt, its answer in progress, and the requests for it."""

    def __init__(self, plan: _Plan, answer: Answer) -> None:
        self.plan = plan
        self.answer = answer
        self.requests: list[int] = []


def _sort_out(
    lm: Any, requests: Sequence[Any], plans: dict[_Settings, _Plan | str]
) -> tuple[list[_Job], list[int]]:
    """Encode prompts; equal ones of equal settings become one job, unless they are sampled.

    Returns:
        The jobs, and the requests that are left to ``hf``.
    """
    left_over: list[int] = []
    ours: list[int] = []
    for index, request in enumerate(requests):
        (left_over if isinstance(plans[repr(request.args[1])], str) else ours).append(index)
    jobs: dict[tuple[_Settings, str, int], _Job] = {}
    asked: Counter[tuple[_Settings, str]] = Counter()
    texts = list(dict.fromkeys(requests[index].args[0] for index in ours))
    encoded = dict(zip(texts, _encode(lm, texts), strict=True))
    for index in ours:
        text, settings = requests[index].args
        plan = plans[repr(settings)]
        if isinstance(plan, str):
            continue
        tokens, cut = encoded[text]
        room = lm.max_length - plan.limit
        window = plan.decoding.window
        if not tokens or (window is not None and min(len(tokens), room) + plan.limit > window):
            _say_plain("an empty prompt" if not tokens else "prompts longer than its window")
            left_over.append(index)
            continue
        kept, did_not_fit = cut_left(tokens, room)
        if cut or did_not_fit:
            lm.note_cut(text)
        sample = asked[repr(settings), text]
        asked[repr(settings), text] += plan.decoding.warp is not None
        key = (repr(settings), text, sample)
        if key not in jobs:
            jobs[key] = _Job(plan, plan.answer(lm, text, kept, sample))
        jobs[key].requests.append(index)
    return list(jobs.values()), sorted(left_over)


def _encode(lm: Any, texts: Sequence[str]) -> list[tuple[list[int], bool]]:
    """Encode prompts one by one as ``tok_batch_encode`` does, without padding.

    Returns:
        For each, its tokens, and whether the tokenizer itself has cut it (``truncation=True``).
    """
    found: dict[int, list[int]] = {}
    cut: set[int] = set()
    begun = [has_bos_prefix(text, getattr(lm.tokenizer, "bos_token", None)) for text in texts]
    for with_bos in (False, True):
        special: dict[str, Any] = {}
        if with_bos:
            special = {"add_special_tokens": False}
        elif lm.add_bos_token is not None:
            special = {"add_special_tokens": lm.add_bos_token}
        chosen = [index for index, one in enumerate(begun) if one == with_bos]
        for start in range(0, len(chosen), _AT_A_TIME):
            part = chosen[start : start + _AT_A_TIME]
            batch = [texts[index] for index in part]
            tokens = lm.tokenizer(batch, truncation=lm.truncation, **special)["input_ids"]
            found.update(zip(part, tokens, strict=True))
            if lm.truncation:
                whole = lm.tokenizer(batch, **special)["input_ids"]
                lengths = zip(part, map(len, whole), strict=True)
                cut.update(index for index, length in lengths if length > len(found[index]))
    return [(found[index], index in cut) for index in range(len(texts))]


def _answer(
    lm: Any, requests: Sequence[Any], jobs: list[_Job], results: dict[int, str], *, hidden: bool
) -> None:
    """Generate, and store the answers in ``results``."""
    by_answer = {id(job.answer): job for job in jobs}
    total = sum(len(job.requests) for job in jobs)
    model = jobs[0].plan.decoding.model
    autocast = torch.autocast(
        device_type=torch.device(lm.device).type,
        dtype=lm.mixed_precision_dtype,
        enabled=lm.mixed_precision_dtype is not None,
    )
    with (
        tqdm(total=total, desc="Running generate_until requests", disable=hidden) as bar,
        torch.no_grad(),
        autocast,
    ):
        answers = [job.answer for job in jobs]
        for answer in decode(model, answers, batch_size_of(lm, "generation")):
            job = by_answer[id(answer)]
            text = _finish(lm, job)
            for index in job.requests:
                results[index] = text
                lm.cache_hook.add_partial("generate_until", requests[index].args, text)
            bar.update(len(job.requests))


def _finish(lm: Any, job: _Job) -> str:
    """Decode an answer's tokens into text as ``hf`` does."""
    tokens: Sequence[int] = job.answer.generated
    thought = lm.think_end_token
    thoughts = job.answer.stops
    if isinstance(thoughts, Thoughts):
        tokens = thoughts.answer(tokens)
        if thoughts.inside:
            return ""
        if thoughts.after is not None:
            text = str(lm.tok_decode(tokens)).lstrip()
            return str(postprocess_generated_text(text, job.plan.until, None))
    if isinstance(thought, int) and thought in tokens:
        tokens = tokens[len(tokens) - tokens[::-1].index(thought) :]
    text = str(lm.tok_decode(tokens))
    if isinstance(thought, int):
        text = text.lstrip()
    return str(
        postprocess_generated_text(
            generation=text,
            stop=job.plan.until,
            think_end_token=thought if isinstance(thought, str) else None,
        )
    )


def _log_thoughts(requests: Sequence[Any], jobs: Sequence[_Job]) -> None:
    """Log for each task how many answers held thoughts, or nothing else."""
    found: dict[str, list[Thoughts]] = {}
    limits: dict[str, int] = {}
    for job in jobs:
        if isinstance(job.answer.stops, Thoughts):
            task = str(requests[job.requests[0]].task_name)
            found.setdefault(task, []).append(job.answer.stops)
            limits[task] = job.plan.limit
    for task, all_of_it in found.items():
        unfinished = sum(one.inside for one in all_of_it)
        thoughtful = unfinished + sum(one.after is not None for one in all_of_it)
        whole = sum(one.whole for one in all_of_it)
        log_thoughts(task, thoughtful, unfinished, limits[task], whole)
