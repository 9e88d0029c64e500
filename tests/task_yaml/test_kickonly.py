# SPDX-License-Identifier: Apache-2.0
"""kickonly_perplexity: its request, its figure, and its refusal of other models."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lmkick_plugin.inference import loaded_models
from tests.task_yaml.conftest import tiny_files
from tests.task_yaml.scripted import ScriptedLM, WindowLM

TASK = "kickonly_perplexity"
TEXT = "\n\n".join(row["text"] for row in tiny_files()["wikitext/test.jsonl"])


@pytest.fixture
def window_lm(monkeypatch: pytest.MonkeyPatch) -> Iterator[WindowLM]:
    """A model that serves windows, announced as a ``kick`` model is."""
    import weakref

    monkeypatch.setattr(loaded_models, "_models", weakref.WeakSet())
    lm = WindowLM()
    loaded_models.announce(lm)
    return lm


@pytest.fixture
def no_kick_model(monkeypatch: pytest.MonkeyPatch) -> None:
    import weakref

    monkeypatch.setattr(loaded_models, "_models", weakref.WeakSet())


@pytest.mark.usefixtures("no_kick_model")
def test_another_model_is_refused_before_it_is_asked(evaluate: Callable[..., Any]) -> None:
    lm = ScriptedLM()
    with pytest.raises(ValueError, match=f"{TASK} .*--model kick"):
        evaluate(lm, "kick_freebaseqa", TASK)
    assert lm.asked == []


def test_request(evaluate: Callable[..., Any], window_lm: WindowLM) -> None:
    evaluate(window_lm, TASK)
    articles = [("0: First", TEXT.index(" = First")), ("1: Second", TEXT.index(" = Second"))]
    settings = {"limit": None, "max_window": 2048, "bos": "auto", "articles": articles}
    assert window_lm.asked == [("windows", (TEXT, settings))]


@pytest.mark.parametrize(("limit", "used"), [(None, len(TEXT) // 100), (1, 1), (0.5, 1)])
def test_figure(
    evaluate: Callable[..., Any], window_lm: WindowLM, limit: float | None, used: int
) -> None:
    result = evaluate(window_lm, TASK, limit=limit)
    losses = [number + 1 for number in range(used)]
    scores = result["results"][TASK]
    assert scores["token_perplexity,none"] == pytest.approx(math.exp(sum(losses) / used))
    assert scores["token_perplexity_stderr,none"] == "N/A"  # of one window
    assert result["higher_is_better"][TASK] == {"token_perplexity": False}
    assert result["versions"][TASK] == 2.0


def test_windows_of_all_processes_are_averaged(tiny_manager: Any, window_lm: WindowLM) -> None:
    task = tiny_manager.load([TASK])["tasks"][TASK]
    shares = []
    for rank in range(2):
        task.build_all_requests(rank=rank, world_size=2, limit=None)
        (doc_id, doc), *rest = task.doc_iterator(rank=rank, world_size=2, limit=None)
        assert (doc_id, rest, len(task.instances)) == (0, [], 1)
        losses = {
            "window_losses": [[1.0, 2.0], [6.0]][rank],
            "window_clusters": [["a", "b"], ["a"]][rank],
        }
        shares.append(task.process_results(doc, [losses])["token_perplexity"])
    assert task.aggregation()["token_perplexity"](shares) == pytest.approx(math.exp(3.0))


def test_samples_hold_each_windows_loss_but_the_text_once(
    evaluate: Callable[..., Any], window_lm: WindowLM
) -> None:
    (sample,) = evaluate(window_lm, TASK)["samples"][TASK]
    assert sample["token_perplexity"]["window_losses"] == [1.0]
    assert json.dumps(sample).count("with a comma") == 1


def test_predict_only(evaluate: Callable[..., Any], window_lm: WindowLM) -> None:
    (sample,) = evaluate(window_lm, TASK, predict_only=True)["samples"][TASK]
    assert sample["filtered_resps"][0]["windows"] == 1


def test_chat_template_and_shots_do_not_concern_it(
    evaluate: Callable[..., Any], window_lm: WindowLM
) -> None:
    evaluate(window_lm, TASK, apply_chat_template=True, num_fewshot=3)
    assert window_lm.asked[0][1][0] == TEXT


def test_shorter_windows_by_metadata(
    evaluate: Callable[..., Any], make_manager: Any, tiny_data: Any, window_lm: WindowLM
) -> None:
    manager = make_manager(data_dir=str(tiny_data), max_window="64")
    evaluate(window_lm, TASK, task_manager=manager)
    assert window_lm.asked[0][1][1]["max_window"] == 64
