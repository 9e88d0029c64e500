# SPDX-License-Identifier: Apache-2.0
"""Judge answers that earlier runs logged.

Replies are kept in the same store as those of a run that judges as it goes, so nothing is paid for
twice. The scores go to a file of their own beside the results, written whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from compressors.files import write_atomically
from lmkick_plugin import __version__
from lmkick_plugin.files import parse_json
from lmkick_plugin.judge.check import CheckSettings, check_task
from lmkick_plugin.judge.judge import shared_judge
from lmkick_plugin.judge.judge_documents import Subject, judge_all
from lmkick_plugin.judge.logged_answers import Logged, dense_run
from lmkick_plugin.judge.plan import JudgePlan
from lmkick_plugin.judge.references import Reference, Turns
from lmkick_plugin.judge.rubric import Metrics
from lmkick_plugin.judge.settings import JudgeSettings
from lmkick_plugin.metrics.variety import Content, describe
from lmkick_plugin.results.runs import Run
from lmkick_plugin.terminal import emit, plain, render_table

__all__ = ["content_table", "judge_jobs", "prepare"]


@dataclass(frozen=True, slots=True)
class _Job:
    """One task's answers, ready to be judged."""

    logged: Logged
    plan: JudgePlan | None
    references: dict[int, Turns]
    is_dense: bool

    @property
    def compared_with_dense(self) -> list[str] | None:
        """The dense model's answers in the order of the items, where they are the reference."""
        reference = None if self.plan is None else self.plan.reference
        if reference is None or reference.kind != "dense":
            return None
        return [turn for row in self.logged.rows for turn in self.references[row[0]]]


def prepare(
    logged: Sequence[Logged], runs: Sequence[Run], given: dict[str, Any], *, judging: bool
) -> list[_Job]:
    """Find judges and references for all tasks, before the first request is paid for."""
    jobs: list[_Job] = []
    for one in logged:
        plan = JudgePlan.read({**one.protocol, **given})
        if plan is None and judging:
            raise ValueError(
                "no judge: give --judge_model NAME (and --judge_base_url URL for an endpoint of "
                "your own), or --content for what can be said without one."
            )
        if plan is None:  # --content: the reference alone is of interest
            plan = JudgePlan.read({**one.protocol, "judge_model": "none asked", **given})
        plan, is_dense = _with_dense(one, runs, plan)
        if judging and plan is not None:
            needed = one.rubric.released and not is_dense
            plan.check(one.task, needs_reference=needed)
        references: dict[int, Turns] = {}
        if plan is not None:
            turns = len(one.rows[0][3])
            names = {row[0]: (*one.rubric.identities(row[2]), row[1]) for row in one.rows}
            references = plan.references(one.task, names, turns=turns)
        jobs.append(_Job(one, plan, references, is_dense))
    if judging and all(job.is_dense for job in jobs):
        raise ValueError(
            "only the dense model's answers were found, and they are the reference. Add a "
            "compressed run."
        )
    return jobs


def _with_dense(
    one: Logged, runs: Sequence[Run], plan: JudgePlan | None
) -> tuple[JudgePlan | None, bool]:
    """Point ``judge_reference=dense`` to the dense model's run among those that are there.

    Returns:
        The plan, and whether these answers are the dense model's own.
    """
    if plan is None or plan.reference != Reference("dense"):
        return plan, False
    dense = dense_run(one.run, runs)
    if dense is None or one.task not in dense.tasks:
        own = str(one.run.record.get("compressor", "")).casefold() in ("none", "")
        if own:
            return replace(plan, reference=None), True
        raise ValueError(
            f"{one.task} of {one.run.label}: no run of its dense model with that task is there. "
            "Give its results as --judge_reference dense:RESULTS."
        )
    path = dense.tasks[one.task].samples_path(one.task)
    return replace(plan, reference=Reference("dense", str(path))), False


def judge_jobs(jobs: Sequence[_Job], check: CheckSettings | None = None) -> int:
    """Judge, write, print.

    Args:
        jobs: From :func:`prepare`.
        check: What to check of the judge; None for nothing.

    Returns:
        Exit status: 0; 1 where answers are unjudged; 2 where none could be judged, or a file
        cannot be written.
    """
    outputs: dict[Path, _Output] = {}
    table: list[list[str]] = []
    lines: list[str] = []
    judged = unjudged = failed = 0
    done = [(job, job.plan) for job in jobs if job.plan is not None and not job.is_dense]
    for settings in {plan.settings for _, plan in done}:
        shared_judge(settings).start()  # once: what stops it in one task stops it in all
    for job, plan in done:
        entry = _judge_one(job, plan, check)
        here, of = _count_judged(entry)
        judged += here
        unjudged += of - here
        path = _output_path(job.logged, plan)
        if path not in outputs:
            outputs[path] = _Output.open(path, _header(job.logged, plan))
        line = entry.get("line")
        try:  # after each task: what is done is on the disk
            line = outputs[path].add(job.logged.task, entry) or line
        except OSError as error:
            failed += 1
            print(f"lmkick judge: {path} cannot be written: {error}", file=sys.stderr)
        if line is not None:
            lines.append(f"{job.logged.run.label}, {job.logged.task}: {line}")
        for metric, value in entry["metrics"].items() if here else ():
            name = (job.logged.run.label, job.logged.task, metric)
            table.append([*name, str(value["n"]), _number(value["mean"]), _number(value["stderr"])])
    if table:
        header = ["run", "task", "metric", "n", "value", "stderr"]
        emit(render_table(header, table, text_columns=3))
    for line in lines:
        emit(f"\n{plain(line)}")
    _say_where([plan.settings for _, plan in done], outputs)
    if failed or not judged:
        return 2
    return 1 if unjudged else 0


def _say_where(judges: Sequence[JudgeSettings], outputs: Mapping[Path, _Output]) -> None:
    """Print what the judges did, and where replies and scores are."""
    for settings in set(judges):
        judge = shared_judge(settings)
        emit(f"\n{plain(settings.model)}: {judge.summary}.")
        emit(judge.store.failure or f"Replies are kept in {settings.store_path}.")
    for path, output in outputs.items():
        if output.written:
            emit(f"Scores are in {path}")


def _judge_one(job: _Job, plan: JudgePlan, check: CheckSettings | None) -> dict[str, Any]:
    """The part of the output file on one task."""
    logged = job.logged
    judge = shared_judge(plan.settings)
    subjects = [Subject(doc, said, job.references.get(key)) for key, _, doc, said in logged.rows]
    verdicts = judge_all(judge, logged.rubric, subjects, reference_model=plan.reference_model)
    categories = [row[2]["category"] for row in logged.rows if "category" in row[2]]
    names = plan.metrics(logged.rubric, categories)
    values: list[Metrics] = [
        {name: own.get(name) for name in names if name in own}
        for row, given in zip(logged.rows, verdicts, strict=True)
        for own in [logged.rubric.metrics(row[2], given)]
    ]
    items = [
        {
            "doc_id": row[0],
            "doc_hash": row[1],
            "metrics": metrics,
            "verdicts": [verdict.to_dict() for verdict in given],
        }
        for row, given, metrics in zip(logged.rows, verdicts, values, strict=True)
    ]
    metrics = {name: _mean([row.get(name) for row in values]) for name in names}
    entry = {"metrics": metrics, "higher_is_better": names, "items": items}
    if check is not None:
        entry |= check_task(
            logged.rubric,
            subjects,
            [(*logged.rubric.identities(row[2]), row[1]) for row in logged.rows],
            verdicts,
            plan,
            check,
        )
    return entry


def _mean(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and standard error of what has a score."""
    known = [value for value in values if value is not None]
    stderr = None
    if len(known) > 1:
        stderr = statistics.stdev(known) / math.sqrt(len(known))
    mean = statistics.fmean(known) if known else None
    return {"n": len(known), "mean": mean, "stderr": stderr}


def _header(logged: Logged, plan: JudgePlan) -> dict[str, Any]:
    return {
        "lmkick": __version__,
        "results": logged.file.path.name,
        "run": logged.run.label,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "judge": plan.public(),
        "tasks": {},
    }


@dataclass(slots=True)
class _Output:
    """A file of scores, and what an earlier call wrote to it.

    Attributes:
        path: The file.
        content: What it is to hold: with the tasks of an earlier call with other ``--tasks``.
        earlier: All tasks of an earlier call, of another version of lmkick too.
        written: Whether this call wrote it.
    """

    path: Path
    content: dict[str, Any]
    earlier: dict[str, Any]
    written: bool = False

    @classmethod
    def open(cls, path: Path, header: dict[str, Any]) -> _Output:
        """Read what is there."""
        try:
            found = parse_json(path.read_bytes())
            earlier = dict(found["tasks"])
            same = all(
                found[name] == header[name] for name in header if name not in ("tasks", "date")
            )
        except (OSError, ValueError, KeyError, TypeError):  # none, or not one of ours
            return cls(path, header, {})
        return cls(path, {**header, "tasks": dict(earlier) if same else {}}, earlier)

    def add(self, task: str, entry: dict[str, Any]) -> str | None:
        """Write the scores of a task, unless an earlier call judged more of its answers.

        Returns:
            Why they are not written; None where they are.

        Raises:
            OSError: The file cannot be written.
        """
        judged, of = _count_judged(entry)
        earlier = self.earlier.get(task, {})
        before, _ = _count_judged(earlier)
        tasks = self.content["tasks"]
        if judged < before:
            tasks[task] = earlier
            if self.written:
                self._write()
            return (
                f"{judged} of {of} answers judged this time, {before} before: the earlier scores "
                f"stay in {self.path}"
            )
        if not judged:
            return f"0 of {of} answers judged: nothing is written"
        checked = tasks.get(task, {})  # an earlier check stays
        kept = {name: checked[name] for name in ("check", "line") if name in checked}
        tasks[task] = kept | entry
        self._write()
        return None

    def _write(self) -> None:
        text = json.dumps(self.content, indent=2, ensure_ascii=False)
        write_atomically(self.path, text + "\n")
        self.written = True


def _count_judged(entry: dict[str, Any]) -> tuple[int, int]:
    """How many answers of a task have scores, and how many there are."""
    try:
        verdicts = [verdict for item in entry["items"] for verdict in item["verdicts"]]
        return sum(verdict["scores"] is not None for verdict in verdicts), len(verdicts)
    except (KeyError, TypeError):  # none, or not one of ours
        return 0, 0


def _output_path(logged: Logged, plan: JudgePlan) -> Path:
    """Beside the results; another judge, reference or prompt writes another file."""
    content = json.dumps(plan.public(), sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    model = re.sub(r"[^\w.-]+", "_", plan.settings.model).strip("._") or "judge"
    stamp = logged.file.stamp or logged.file.path.stem
    # Not the name of a results file: those end in the time.
    return logged.file.path.with_name(f"judged_{stamp}_by_{model[:60]}_{digest}.json")


def content_table(jobs: Sequence[_Job]) -> str:
    """Render how varied the answers of each task are."""
    header = ["run", "task", "answers", "words", "unique", "ratio", "repeated", "empty"]
    header += ["pairs", "ratio at equal length", "dense"]
    rows = []
    for job in jobs:
        said = [turn for row in job.logged.rows for turn in row[3]]
        content: Content = describe(said, job.compared_with_dense)
        values = asdict(content)
        cells = [values.pop("answers"), *values.values()]
        rows.append([job.logged.run.label, job.logged.task, *map(_number, cells)])
    return render_table(header, rows, text_columns=2)


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"
