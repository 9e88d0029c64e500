# SPDX-License-Identifier: Apache-2.0
"""Evidence made by hand, without files: runs with known shares of right answers."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lmkick_plugin.report.bootstrap import drawn_ratios
from lmkick_plugin.report.evidence import Evidence, Settings
from lmkick_plugin.report.item_values import Key
from lmkick_plugin.report.models import Cell, Collection, Model
from lmkick_plugin.report.paired_statistics import Metric, paired_statistics
from lmkick_plugin.report.scores import Score
from lmkick_plugin.report.task_pairings import CLAIM_RESAMPLES, Pairing
from lmkick_plugin.report.verdict import Rule
from lmkick_plugin.results.results_file import ResultsFile
from lmkick_plugin.results.runs import Run
from lmkick_plugin.results.task_facts import facts_of, task_order

LOSSES = {"token_perplexity"}
FREE = {"jsd", "unique_words"}
N = 400


@dataclass
class Bench:
    """Runs of one model by recipe; each score is a share of right answers, or a level."""

    n: int = N
    rows: list[tuple[dict[str, Any], dict[str, float]]] = field(default_factory=list)
    dense: dict[str, float] = field(default_factory=dict)
    cut: Mapping[str, int] | None = field(default_factory=dict)

    def add(self, compressor: str, scores: Mapping[str, float], **record: Any) -> Bench:
        self.rows.append(({"compressor": compressor, **record}, dict(scores)))
        return self

    def items(self, task: str, value: float) -> np.ndarray[Any, Any]:
        metric = facts_of(task).headline or "acc"
        if metric in LOSSES:
            return np.log(value) + np.linspace(-0.05, 0.05, self.n)
        if metric in FREE or metric == "rougeL":
            return value * np.linspace(0.9, 1.1, self.n)
        return (np.arange(self.n) < round(value * self.n)).astype(float)

    def build(self) -> tuple[Evidence, Model]:
        dense = self._cell({"compressor": "none"}, "run-0")
        cells = [self._cell(r, f"run-{i}") for i, (r, _) in enumerate(self.rows, start=1)]
        tasks = list(dict.fromkeys([t for _, s in self.rows for t in s] + list(self.dense)))
        keys: dict[str, Key] = {
            task: ((facts_of(task).headline or "acc"), "none") for task in tasks
        }
        pairings: dict[tuple[str, str, Key], Pairing] = {}
        scores: dict[str, list[Score]] = {cell.name: [] for cell in [dense, *cells]}
        for task in tasks:
            held = [(c, s[task]) for c, (_, s) in zip(cells, self.rows, strict=True) if task in s]
            if task not in self.dense:
                continue
            arrays = [self.items(task, self.dense[task])] + [self.items(task, v) for _, v in held]
            metric = keys[task][0]
            direction = None if metric in FREE else "at_most" if metric in LOSSES else "at_least"
            binary = not (metric in LOSSES | FREE or metric == "rougeL")
            transform = np.exp if metric in LOSSES else None
            known = Metric(transform=transform, direction=direction, binary=binary)
            seed = zlib.crc32(task.encode())
            columns = np.stack([*arrays, np.ones(self.n)], axis=1)
            draws = drawn_ratios(columns, binary=binary, resamples=CLAIM_RESAMPLES, seed=seed)
            draws = draws if transform is None else tuple(transform(d) for d in draws)
            for cell, value in held:
                score = Score(
                    task=task,
                    metric=metric,
                    filter="none",
                    value=value,
                    stderr=None,
                    n=self.n,
                    file=cell.run.files[0].path,
                    group=False,
                    facts=facts_of(task),
                )
                scores[cell.name].append(score)
            for (cell, _), values, own in zip(held, arrays[1:], draws[1:], strict=True):
                pairings[cell.name, task, keys[task]] = Pairing(
                    statistics=paired_statistics(
                        arrays[0], values, metric=known, rule=Rule(resamples=500)
                    ),
                    paired=True,
                    dense_draws=draws[0],
                    draws=own,
                    files=(dense.run.files[0], cell.run.files[0]),
                )
        model = Model("m", "m", dense, tuple(cells))
        evidence = Evidence(
            collection=Collection((model,), (), ()),
            settings=Settings(),
            tasks=tuple(tasks),
            keys=keys,
            children={},
            scores=scores,
            pairings=pairings,
            notes=(),
            _index={
                (name, score.task, (score.metric, score.filter)): score
                for name, found in scores.items()
                for score in found
            },
        )
        return evidence, model

    def _cell(self, record: dict[str, Any], name: str) -> Cell:
        kick = {"truncated_prompts": self.cut, **record}
        tasks = {task: {"acc,none": 0.0} for task in task_order()}
        data = {"results": tasks, "configs": tasks, "config": {"kick": kick}}
        file = ResultsFile(Path(f"{name}/results_2026-01-01T00-00-00.json"), "2026", data)
        words = [record["compressor"], *(str(v) for k, v in record.items() if k != "compressor")]
        return Cell(name, Run("x", (file,)), " ".join(words), kick, "m")
