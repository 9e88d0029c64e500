# SPDX-License-Identifier: Apache-2.0
"""Every task gives the same with common prefixes computed once and without."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmkick_plugin.inference import loaded_models

TASKS = (
    "kick_*", "kickonly_mtbench", "kickonly_perplexity", "kickonly_divergence",
    "llmkick_freebaseqa", "llmkick_triviaqa_*", "mmlu_llmkick_anatomy",
)  # fmt: skip


@pytest.fixture(scope="module")
def samples(
    evaluate: Callable[..., Any],
    make_manager: Callable[..., Any],
    tiny_data: Path,
    tiny_model_dir: Path,
) -> Iterator[dict[bool, dict[str, list[dict[str, Any]]]]]:
    """What each task's documents were asked, answered and scored, by ``prefix_reuse``."""
    from lmkick_plugin.model import KickLM

    manager = make_manager(data_dir=str(tiny_data), max_window=32)
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for reuse in (True, False):
            patch.setattr(loaded_models, "_models", weakref.WeakSet())
            lm = KickLM(
                pretrained=str(tiny_model_dir), compressor="magnitude", sparsity=0.5,
                device="cpu", batch_size=4, prefix_reuse=reuse,
            )  # fmt: skip
            result = evaluate(lm, *TASKS, task_manager=manager, limit=1, bootstrap_iters=0)
            assert result["config"]["kick"]["prefix_reuse"] is reuse
            assert (lm.scorer.tokens["computed"] > 0) is reuse
            found[reuse] = result["samples"]
        yield found


def numbers(value: Any) -> list[float]:
    """All numbers of nested answers and scores, in order."""
    if isinstance(value, (bool, int, float)):
        return [float(value)]
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value)]
    if isinstance(value, (list, tuple)):
        return [number for one in value for number in numbers(one)]
    return []


def texts(value: Any) -> list[str]:
    """All texts of nested answers, in order."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value)]
    if isinstance(value, (list, tuple)):
        return [text for one in value for text in texts(one)]
    return []


def test_every_document_of_every_task(
    samples: dict[bool, dict[str, list[dict[str, Any]]]],
) -> None:
    with_reuse, without = samples[True], samples[False]
    assert len(with_reuse) > 60
    assert with_reuse.keys() == without.keys()
    said = set()
    for task, ours in with_reuse.items():
        for one, other in zip(ours, without[task], strict=True):
            for part in ("doc_id", "arguments", "target"):
                assert one[part] == other[part], (task, part)
            assert texts(one["resps"]) == texts(other["resps"]), task
            assert numbers(one["resps"]) == pytest.approx(numbers(other["resps"]), abs=1e-3), task
            for metric in one["metrics"]:
                assert numbers(one[metric]) == pytest.approx(
                    numbers(other[metric]), abs=1e-3, nan_ok=True
                ), (task, metric)
            said.update(texts(one["resps"]))
    assert len(said) > 5  # else nothing was generated that could differ
