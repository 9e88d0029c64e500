# SPDX-License-Identifier: Apache-2.0
"""Pairs of runs: some written by lm-eval itself, some by hand in the same schema."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lmkick_plugin.results.results_file import ResultsFile
from lmkick_plugin.results.runs import Run, load_run

STAMP = "2026-01-02T03-04-05.678901"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def choice_item(
    number: int, scores: Sequence[float], *, gold: int = 0, text: str | None = None, shots: int = 0
) -> dict[str, Any]:
    """A multiple-choice sample as lm-eval writes it; its greedy token is the best choice."""
    question = text or f"question {number}"
    best = max(range(len(scores)), key=lambda i: scores[i])
    responses = [[str(score), str(i == best)] for i, score in enumerate(scores)]
    prompt = "shot " * shots + question
    return {
        "doc_id": number,
        "doc": {"question": question},
        "target": str(gold),
        "arguments": {
            f"gen_args_{i}": {"arg_0": prompt, "arg_1": f" {letter}"}
            for i, letter in enumerate("ABCD"[: len(scores)])
        },
        "resps": [[response] for response in responses],
        "filtered_resps": responses,
        "filter": "none",
        "metrics": ["acc", "acc_greedy"],
        "doc_hash": sha(question),
        "prompt_hash": sha(prompt),
        "target_hash": sha(str(gold)),
        "acc": float(best == gold),
        "acc_greedy": float(best == gold),
    }


def text_item(
    number: int, answer: str, values: Mapping[str, Any], *, max_gen_toks: int = 32
) -> dict[str, Any]:
    """A generation sample as lm-eval writes it."""
    question = f"question {number}"
    settings = {"until": ["\n"], "max_gen_toks": max_gen_toks}
    return {
        "doc_id": number,
        "doc": {"question": question},
        "target": "x",
        "arguments": {"gen_args_0": {"arg_0": question, "arg_1": settings}},
        "resps": [[answer]],
        "filtered_resps": [answer],
        "filter": "none",
        "metrics": list(values),
        "doc_hash": sha(question),
        "prompt_hash": sha(question),
        "target_hash": sha("x"),
        **values,
    }


def mean(items: Sequence[Mapping[str, Any]], metric: str) -> float | str:
    values = [item[metric] for item in items]
    if all(isinstance(v, int | float) for v in values):
        return sum(values) / len(values)
    return "N/A"


@dataclass
class Writer:
    """Writes runs by hand under one folder."""

    folder: Path
    defaults: dict[str, Any] = field(default_factory=dict)

    def __call__(
        self,
        name: str,
        tasks: Mapping[str, Sequence[Mapping[str, Any]]],
        *,
        stamp: str = STAMP,
        record: Mapping[str, Any] | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        config: Mapping[str, Any] | None = None,
        scores: Mapping[str, Mapping[str, Any]] | None = None,
        samples: bool = True,
        directions: Mapping[str, bool] | None = None,
        **top: Any,
    ) -> Path:
        """Write a results file and its samples; returns the folder ``name``."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        results: dict[str, dict[str, Any]] = {}
        for task, items in tasks.items():
            metrics = items[0]["metrics"]
            results[task] = {f"{m},none": mean(items, m) for m in metrics}
            results[task] = {k: v for k, v in results[task].items() if v != "N/A"}
            if samples:
                lines = [json.dumps(item) + "\n" for item in items]
                (folder / f"samples_{task}_{stamp}.jsonl").write_text("".join(lines))
        for group, members in (groups or {}).items():
            leaves = [item for member in members for item in tasks.get(member, [])]
            results[group] = {"acc,none": mean(leaves, "acc")} if leaves else {}
        for task, changed in (scores or {}).items():
            results[task] = {**results.get(task, {}), **changed}
        higher = {"acc": True, "acc_greedy": True, "exact_match": True, "f1": True}
        data = {
            "results": results,
            "group_subtasks": dict(groups or {}),
            "configs": {task: {"task": task, "target_delimiter": " "} for task in tasks},
            "versions": dict.fromkeys(tasks, 1.0),
            "n-shot": dict.fromkeys(tasks, 0),
            "higher_is_better": {key: {**higher, **(directions or {})} for key in results},
            "n-samples": {t: {"original": len(i), "effective": len(i)} for t, i in tasks.items()},
            "config": {
                "model": "kick" if record else "hf",
                "model_args": f"pretrained={name}",
                "limit": None,
                "fewshot_seed": 1234,
                **({"kick": dict(record)} if record else {}),
                **(config or {}),
            },
            "model_name": name,
            "max_length": 2048,
            "chat_template_sha": None,
            **top,
        }
        (folder / f"results_{stamp}.json").write_text(json.dumps(data, indent=2))
        return folder


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    return Writer(tmp_path)


@pytest.fixture
def pair(write: Writer) -> Callable[..., tuple[Run, Run]]:
    """Runs ``a`` and ``b`` of one task from two lists of items."""

    def make(
        first: Sequence[Mapping[str, Any]],
        second: Sequence[Mapping[str, Any]],
        task: str = "quiz",
        **both: Any,
    ) -> tuple[Run, Run]:
        return (
            load_run(str(write("a", {task: first}, **both))),
            load_run(str(write("b", {task: second}, **both))),
        )

    return make


# -- runs of lm-eval's own ------------------------------------------------------------------------

SUBJECTS = ("toy_algebra", "toy_poetry")

_CHOICE = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}\\nAnswer:"
doc_to_choice: ["one", "three", "seventeen"]
doc_to_target: answer
metric_list: [{{metric: acc, higher_is_better: true, aggregation: mean}}, {{metric: acc_norm}}]
metadata: {{version: 1.0}}
"""
_TEXT = """\
task: toy_say
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {cache}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
filter_list:
  - {{name: raw, filter: [{{function: take_first}}]}}
  - name: digit
    filter: [{{function: regex, regex_pattern: "([0-9])"}}, {{function: take_first}}]
metadata: {{version: 1.0}}
"""
_PAGES = """\
task: toy_pages
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {cache}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: byte_perplexity}}, {{metric: bits_per_byte}}]
metadata: {{version: 1.0}}
"""
_GROUPS = {
    "toy_quiz.yaml": """\
group: toy_quiz
task: [toy_algebra, toy_poetry]
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
metadata: {version: 1.0}
""",
    "toy.yaml": "group: toy\ntask: [toy_quiz, toy_say, toy_pages]\n",
}


def _noise(*parts: object) -> float:
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _hash_model(name: str) -> Any:
    """An lm-eval model whose answers are hashes of the questions."""
    from lm_eval.api.model import LM

    class HashModel(LM):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def draw(self, *parts: object) -> float:
            moved = self.name == "moved" and _noise("moved?", parts[0]) < 0.3
            return _noise(moved, *parts)

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            draws = [self.draw(*request.args) for request in requests]
            return [(-5 * draw, draw < 0.3) for draw in draws]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return [-len(r.args[0]) * (0.5 + self.draw(r.args[0])) for r in requests]

        def generate_until(self, requests: list[Any]) -> list[str]:
            return [f"It is {int(4 * self.draw(request.args[0]))}" for request in requests]

        def get_model_info(self) -> dict[str, Any]:
            sparsity = None if self.name == "still" else 0.5
            compressor = "none" if self.name == "still" else "wanda"
            return {"kick": {"compressor": compressor, "requested_sparsity": sparsity}}

    return HashModel(name)


@pytest.fixture(scope="session")
def real_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of two runs that lm-eval itself made and saved, of two models made of hashes.

    Tasks of its three request types, two filters, groups, repeated documents. The second model
    answers like the first on most items.
    """
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    home = tmp_path_factory.mktemp("toy")
    tasks = home / "tasks"
    tasks.mkdir()
    for file, text in _GROUPS.items():
        (tasks / file).write_text(text)
    sources = dict.fromkeys(SUBJECTS, _CHOICE) | {"toy_say": _TEXT, "toy_pages": _PAGES}
    for name, template in sources.items():
        data = home / f"{name}.jsonl"
        documents = [{"question": f"{name} {i % 25}?", "answer": i % 25 % 3} for i in range(30)]
        data.write_text("".join(json.dumps(document) + "\n" for document in documents))
        (tasks / f"{name}.yaml").write_text(
            template.format(name=name, data=data, cache=home / "cache")
        )
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    folders = []
    for name in ("still", "moved"):
        folders.append(home / "out" / name)
        tracker = EvaluationTracker(output_path=str(folders[-1]))
        results = lm_eval.simple_evaluate(
            model=_hash_model(name),
            model_args=f"pretrained={name}",
            tasks=["toy"],
            task_manager=manager,
            evaluation_tracker=tracker,
            bootstrap_iters=0,
        )
        samples = results.pop("samples")
        tracker.save_results_aggregated(results=results, samples=samples)
        for task in results["configs"]:
            tracker.save_results_samples(task_name=task, samples=samples[task])
    return folders[0], folders[1]


def read(folder: Path) -> ResultsFile:
    """The one results file in a folder."""
    (path,) = folder.rglob("results_*.json")
    return ResultsFile.read(path)


# -- a benchmark's whole grid ---------------------------------------------------------------------


@pytest.fixture(scope="session")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a grid of methods and levels, with scores like the paper's."""
    from tests.lmkick_plugin.report.worlds import paper_like

    return paper_like(Writer(tmp_path_factory.mktemp("paper")), judged=True)


@pytest.fixture(scope="session")
def paper_evidence(paper: Path) -> Any:
    """All that the report knows of that grid."""
    from lmkick_plugin.report.evidence import Settings, gather
    from lmkick_plugin.report.models import collect

    return gather(collect([paper]), Settings(resamples=1000))


@pytest.fixture(scope="session")
def paper_report(paper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole report on that grid."""
    from lmkick_plugin.report import write_report

    folder = tmp_path_factory.mktemp("report")
    write_report([paper], folder, resamples=500)
    return folder
