# SPDX-License-Identifier: Apache-2.0
"""kickonly_divergence: its texts, its means over positions, and its refusal of other models."""

from __future__ import annotations

import gzip
import json
import math
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmkick_plugin.data import wikitext
from lmkick_plugin.data.sources import DataError
from lmkick_plugin.inference import loaded_models
from tests.task_yaml.conftest import tiny_files
from tests.task_yaml.scripted import ScriptedLM

TASK = "kickonly_divergence"
ROWS = [row["text"] for row in tiny_files()["wikitext/test.jsonl"]]
ARTICLES = [article.page for article in wikitext.split(ROWS)]
DEFAULTS = {
    "max_window": 2048, "prompt_tokens": 64, "new_tokens": 64, "whole": False, "bos": "auto",
}  # fmt: skip


class DivergingLM(ScriptedLM):
    """A character is a position; the n-th text diverges by n / 10 bits at each."""

    generates = True

    def divergence(self, requests: list[Any]) -> list[dict[str, Any]]:
        self._note("divergence", requests)
        return [self._answer(number, *request.args) for number, request in enumerate(requests)]

    def _answer(self, number: int, text: str, settings: dict[str, Any]) -> dict[str, Any]:
        return {
            "jsd": number / 10 * len(text),
            "kl": number * len(text),
            "top1_agreement": len(text) - number,
            "positions": len(text),
            "first_divergent_token": number if self.generates else None,
        }


@pytest.fixture
def lm(monkeypatch: pytest.MonkeyPatch) -> Iterator[DivergingLM]:
    monkeypatch.setattr(loaded_models, "_models", weakref.WeakSet())
    model = DivergingLM()
    loaded_models.announce(model)
    return model


def test_another_model_is_refused_before_it_is_asked(
    evaluate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded_models, "_models", weakref.WeakSet())
    lm = ScriptedLM()
    with pytest.raises(ValueError, match=f"{TASK} .*--model kick"):
        evaluate(lm, "kick_freebaseqa", TASK)
    assert lm.asked == []


def test_articles_are_asked_for(evaluate: Callable[..., Any], lm: DivergingLM) -> None:
    evaluate(lm, TASK)
    assert lm.asked == [("divergence", (article, DEFAULTS)) for article in ARTICLES]


def test_positions_are_averaged_not_documents(
    evaluate: Callable[..., Any], lm: DivergingLM
) -> None:
    result = evaluate(lm, TASK)
    scores = result["results"][TASK]
    first, second = map(len, ARTICLES)
    assert first != second
    assert scores["jsd,none"] == pytest.approx(0.1 * second / (first + second))
    assert scores["kl,none"] == pytest.approx(second / (first + second))
    assert scores["top1_agreement,none"] == pytest.approx((first + second - 1) / (first + second))
    assert scores["first_divergent_token,none"] == 0.5
    assert scores["jsd_stderr,none"] > 0
    assert result["higher_is_better"][TASK]["jsd"] is False


def test_standard_error_is_that_of_a_ratio(make_manager: Any) -> None:
    import random
    import statistics

    from lm_eval.api.metrics import stderr_for_metric

    from lmkick_plugin.metrics.aggregation import mean_over_positions

    draw = random.Random(0)
    sizes = [draw.randint(50, 500) for _ in range(200)]
    pairs = [[size * draw.gauss(0.3, 0.1), size] for size in sizes]
    resampled = [draw.choices(pairs, k=len(pairs)) for _ in range(2000)]
    bootstrap = statistics.stdev(
        sum(total for total, _ in sample) / sum(size for _, size in sample) for sample in resampled
    )
    values: list[Any] = list(pairs)
    assert mean_over_positions(values) == pytest.approx(
        sum(total for total, _ in pairs) / sum(sizes)
    )
    stderr = stderr_for_metric(mean_over_positions, bootstrap_iters=100)
    assert stderr is not None
    assert stderr(values) == pytest.approx(bootstrap, rel=0.1)
    for broken in (math.nan, math.inf):
        assert not math.isfinite(mean_over_positions([[broken, 3], [1.0, 2]]))
    assert math.isnan(mean_over_positions([]))


def test_samples_hold_sums_and_positions(evaluate: Callable[..., Any], lm: DivergingLM) -> None:
    samples = evaluate(lm, TASK)["samples"][TASK]
    assert [sample["jsd"] for sample in samples] == [
        [0.0, len(ARTICLES[0])],
        [0.1 * len(ARTICLES[1]), len(ARTICLES[1])],
    ]
    assert json.dumps(samples).count("with a comma") == 1
    assert len({sample["doc_hash"] for sample in samples}) == 2


def test_the_report_reads_what_lm_eval_writes(
    evaluate: Callable[..., Any], lm: DivergingLM
) -> None:
    from lmkick_plugin.report.scoring import scoring_of

    result = evaluate(lm, TASK)
    for metric in ("jsd", "kl", "top1_agreement"):
        values = [tuple(sample[metric]) for sample in result["samples"][TASK]]
        scoring = scoring_of(metric, higher_is_better=False)
        score = scoring.items(values).score(scoring.metric.transform)
        assert score == pytest.approx(result["results"][TASK][f"{metric},none"])


def test_nothing_generated(evaluate: Callable[..., Any], lm: DivergingLM) -> None:
    lm.generates = False
    assert "first_divergent_token,none" not in evaluate(lm, TASK)["results"][TASK]


@pytest.mark.parametrize("limit", [1, 0.5])
def test_limit(evaluate: Callable[..., Any], lm: DivergingLM, limit: float) -> None:
    evaluate(lm, TASK, limit=limit)
    assert len(lm.asked) == 1


def test_processes_share_the_documents(tiny_manager: Any, lm: DivergingLM) -> None:
    task = tiny_manager.load([TASK])["tasks"][TASK]
    found = []
    for rank in range(2):
        task.build_all_requests(rank=rank, world_size=2, limit=None)
        found.append([(instance.doc_id, instance.args[0]) for instance in task.instances])
    assert found == [[(0, ARTICLES[0])], [(1, ARTICLES[1])]]


def test_chat_template_and_shots_do_not_concern_text(
    evaluate: Callable[..., Any], lm: DivergingLM
) -> None:
    evaluate(lm, TASK, apply_chat_template=True, num_fewshot=3)
    assert lm.asked[0][1][0] == ARTICLES[0]


# --- other texts ----------------------------------------------------------------------------------


def test_rows_of_a_file(
    evaluate: Callable[..., Any], make_manager: Any, lm: DivergingLM, tmp_path: Path
) -> None:
    path = tmp_path / "own.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps({"text": text}) + "\n" for text in ("one", " ", "two")))
    evaluate(lm, TASK, task_manager=make_manager(divergence_text=str(path), new_tokens="0"))
    assert lm.asked == [
        ("divergence", (text, {**DEFAULTS, "new_tokens": 0})) for text in ("one", "two")
    ]


def test_a_text_file_in_pieces(
    evaluate: Callable[..., Any], make_manager: Any, lm: DivergingLM, tmp_path: Path
) -> None:
    path = tmp_path / "own.txt"
    text = "\n\n".join(f"{number} " + "words " * 400 for number in range(9))
    path.write_text(text, encoding="utf-8")
    evaluate(lm, TASK, task_manager=make_manager(divergence_text=str(path)))
    asked = [arguments[0] for _, arguments in lm.asked]
    assert len(asked) == 3
    assert "\n\n".join(asked) == text


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.txt", None, "no such file"),
        ("own.csv", "a,b", "does not end in .txt or .jsonl"),
        ("own.txt", " \n\n ", "holds no text"),
        ("own.jsonl", '{"words": 3}', "no text in field 'text'"),
        ("own.jsonl", "{", "not JSON"),
        ("own.txt.gz", "plain", "cannot be read"),
    ],
)
def test_files_that_are_no_text(
    make_manager: Any, tmp_path: Path, name: str, content: str | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        make_manager(divergence_text=str(tmp_path / name)).load([TASK])


def test_prompts_are_those_that_the_tasks_ask(
    evaluate: Callable[..., Any], make_manager: Any, tiny_data: Path, lm: DivergingLM
) -> None:
    names = ("mmlu_kick_anatomy", "kick_freebaseqa")
    asked = ScriptedLM()
    evaluate(asked, *names, bootstrap_iters=0)
    expected = list(dict.fromkeys(arguments[0] for _, arguments in asked.asked))
    manager = make_manager(data_dir=str(tiny_data), divergence_prompts="+".join(names))
    result = evaluate(lm, TASK, task_manager=manager)
    assert sorted(arguments[0] for _, arguments in lm.asked) == sorted(expected)
    assert all(arguments[1]["whole"] for _, arguments in lm.asked)
    assert {sample["doc"]["source"] for sample in result["samples"][TASK]} == set(names)


def test_prompts_of_a_group_are_spread_over_its_tasks(
    evaluate: Callable[..., Any], make_manager: Any, tiny_data: Path, lm: DivergingLM
) -> None:
    manager = make_manager(
        data_dir=str(tiny_data), divergence_prompts="kick_mmlu+kick_freebaseqa", divergence_count=19
    )
    samples = evaluate(lm, TASK, task_manager=manager)["samples"][TASK]
    sources = [sample["doc"]["source"] for sample in samples]
    assert sources.count("kick_freebaseqa") == 4  # all there are
    assert len(sources) == 19 + 4
    assert len(set(sources)) == 19 + 1


def test_prompts_with_a_chat_template(
    evaluate: Callable[..., Any], make_manager: Any, tiny_data: Path, lm: DivergingLM
) -> None:
    manager = make_manager(data_dir=str(tiny_data), divergence_prompts="kick_freebaseqa")
    evaluate(lm, TASK, task_manager=manager, apply_chat_template=True, limit=2)
    asked = [arguments[0] for _, arguments in lm.asked]
    assert len(asked) == 2
    assert all(text.startswith("[user]") and text.endswith("[assistant]") for text in asked)


@pytest.mark.parametrize("chat", [False, True])
def test_prompts_with_a_system_instruction(
    evaluate: Callable[..., Any], make_manager: Any, tiny_data: Path, lm: DivergingLM, chat: bool
) -> None:
    options = {"system_instruction": "Be brief.", "apply_chat_template": chat, "limit": 2}
    asked = ScriptedLM()
    evaluate(asked, "kick_freebaseqa", bootstrap_iters=0, **options)
    expected = [arguments[0] for _, arguments in asked.asked]
    assert all("Be brief." in text for text in expected)
    manager = make_manager(data_dir=str(tiny_data), divergence_prompts="kick_freebaseqa")
    evaluate(lm, TASK, task_manager=manager, **options)
    assert [arguments[0] for _, arguments in lm.asked] == expected


def test_no_judge_is_looked_at_for_prompts(
    evaluate: Callable[..., Any],
    make_manager: Any,
    tiny_data: Path,
    lm: DivergingLM,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lmkick_plugin.judge.plan import JudgePlan

    checked: list[str] = []
    monkeypatch.setattr(JudgePlan, "check", lambda plan, task, **_: checked.append(task))
    monkeypatch.setenv("LMKICK_JUDGE_MODEL", "nobody")
    monkeypatch.setenv("LMKICK_JUDGE_BASE_URL", "http://127.0.0.1:9/v1")
    manager = make_manager(data_dir=str(tiny_data), divergence_prompts="kick_instruct")
    evaluate(lm, TASK, task_manager=manager)
    assert len(lm.asked) == 4
    assert checked == []
    manager.load(["kick_instruct"])["tasks"]["kick_instruct"].build_all_requests()
    assert checked == ["kick_instruct"]  # where answers are judged, it is


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"divergence_prompts": "kick_nothing"}, "no task 'kick_nothing'"),
        ({"divergence_prompts": "kick_wikitext"}, "has no prompts"),
        ({"divergence_prompts": "a", "divergence_text": "b.txt"}, "both given"),
        ({"divergence_count": 0}, "divergence_count"),
        ({"max_window": "wide"}, "max_window"),
        ({"new_tokens": -1}, "new_tokens"),
    ],
)
def test_settings_that_make_no_sense(
    make_manager: Any, tiny_data: Path, metadata: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        make_manager(data_dir=str(tiny_data), **metadata).load([TASK])


# --- a whole run ----------------------------------------------------------------------------------


@pytest.mark.parametrize("reuse", [True, False])
def test_with_a_compressed_model(
    evaluate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path, reuse: bool
) -> None:
    from lmkick_plugin.model import KickLM

    monkeypatch.setattr(loaded_models, "_models", weakref.WeakSet())
    model = KickLM(
        pretrained=str(tiny_model_dir), compressor="magnitude", sparsity=0.5, device="cpu",
        prefix_reuse=reuse,
    )  # fmt: skip
    result = evaluate(model, TASK)
    scores = result["results"][TASK]
    assert 0 < scores["jsd,none"] < scores["kl,none"]
    assert 0 <= scores["top1_agreement,none"] < 1
    json.dumps(result["samples"])
