# SPDX-License-Identifier: Apache-2.0
"""``lmkick judge --check``: how far the judge of a task's answers can be trusted.

Some answers are judged again, by the same judge and by a second one, and answers that experts
scored are judged once. All replies are kept in the store like any other.
"""

from __future__ import annotations

import gzip
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from compressors.errors import SettingsError
from lmkick_plugin.files import parse_json
from lmkick_plugin.judge.agreement import Agreement, Retest, agreement, retest
from lmkick_plugin.judge.judge import shared_judge
from lmkick_plugin.judge.judge_documents import Subject, judge_all
from lmkick_plugin.judge.parsing.tokens import ASPECT_WORDS
from lmkick_plugin.judge.plan import JudgePlan
from lmkick_plugin.judge.references import IDENTITIES, TEXTS
from lmkick_plugin.judge.rubric import Rubric
from lmkick_plugin.judge.verdicts import Verdict

__all__ = ["CheckSettings", "ExpertScore", "check_task", "load_experts"]

_TEXTS = (*TEXTS, "decoded")
_SUMMEVAL_PREFIX = re.compile(r"^(?:dm|cnn)-test-")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSettings:
    """Settings of a check.

    Attributes:
        items: Answers that are judged again, spread evenly over the task.
        repeats: Times that the judge judges them, the first one included.
        second: A second judge, in all else asked like the first; None for none.
        second_base_url: Its endpoint; None for the first judge's.
        experts: Answers scored by experts.
    """

    items: int = 20
    repeats: int = 2
    second: str | None = None
    second_base_url: str | None = None
    experts: Sequence[ExpertScore] = ()


@dataclass(frozen=True, slots=True)
class ExpertScore:
    """One answer as experts scored it.

    Attributes:
        identity: The document: its ``question_id``, ``id`` or ``doc_hash``.
        score: The mean of all experts and aspects.
        answer: The answer; None for the run's own.
    """

    identity: str
    score: float
    answer: str | None


def load_experts(path: Path | str) -> list[ExpertScore]:
    """Read scores of experts from JSON Lines, plain or ``.gz``.

    Args:
        path: A file whose rows hold an identity as for references; ``score``, or the four aspects
            by name, each a number or a list of one per expert, or ``expert_annotations`` as
            SummEval has them; and perhaps the answer that was scored (``text``, ``answer``,
            ``decoded`` ...).

    Returns:
        The scores.

    Raises:
        SettingsError: The file cannot be read, or a row lacks an identity or a score.
    """
    path = Path(path).expanduser()
    found = []
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    found.append(_expert(parse_json(line), f"--experts {path}, line {number}"))
    except (OSError, ValueError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(
            f"--experts {path}: cannot be read ({error}). Give JSON Lines."
        ) from error
    if not found:
        raise SettingsError(f"--experts {path}: no scores in it.")
    return found


def _expert(row: Any, where: str) -> ExpertScore:
    row = row if isinstance(row, dict) else {}
    identity = next((row[name] for name in IDENTITIES if row.get(name) is not None), None)
    experts = row.get("expert_annotations")
    values = _scores(row)
    if isinstance(experts, list):
        values = [score for one in experts if isinstance(one, dict) for score in _scores(one)]
    if identity is None or not values:
        raise SettingsError(
            f"{where}: expected an identity ({', '.join(IDENTITIES)}), and score, the four aspects "
            "or expert_annotations."
        )
    answer = next((row[name] for name in _TEXTS if isinstance(row.get(name), str)), None)
    name = _SUMMEVAL_PREFIX.sub("", str(identity))
    return ExpertScore(name, statistics.fmean(values), answer)


def _scores(row: Mapping[str, Any]) -> list[float]:
    """All scores of a row, whichever aspect and expert they are of."""
    found: list[float] = []
    for name, value in row.items():
        if str(name).lower() in ("score", *ASPECT_WORDS):
            for one in value if isinstance(value, list) else [value]:
                if (
                    isinstance(one, int | float)
                    and not isinstance(one, bool)
                    and math.isfinite(one)
                ):
                    found.append(float(one))
    return found


def check_task(
    rubric: Rubric,
    subjects: Sequence[Subject],
    identities: Sequence[Sequence[str]],
    verdicts: Sequence[tuple[Verdict, ...]],
    plan: JudgePlan,
    settings: CheckSettings,
) -> dict[str, Any]:
    """Check the judge on one task.

    Args:
        rubric: The task's.
        subjects: Its documents and answers.
        identities: What each document may be called.
        verdicts: The judge's, as counted.
        plan: The judge.
        settings: Of the check.

    Returns:
        ``check``, the measures as plain data, and ``line``, the same in words for a report.
    """
    scored = [
        i
        for i, given in enumerate(verdicts)
        if all(one.scores is not None and not one.by_rule for one in given)
    ]
    step = max(1, len(scored) // max(1, settings.items))
    chosen = scored[::step][: settings.items]
    some = [subjects[i] for i in chosen]
    first = [verdicts[i] for i in chosen]
    times = [_overall(rubric, first)]
    for repeat in range(1, settings.repeats):
        times.append(_overall(rubric, _ask(plan, rubric, some, repeat)))
    again = retest(times)
    second = None
    if settings.second is not None:
        address = settings.second_base_url or plan.settings.base_url
        other = replace(plan.settings, model=settings.second, base_url=address)
        others = _ask(replace(plan, settings=other), rubric, some)
        compared = plan.reference is not None
        results = (_results(first), _results(others)) if compared else None
        second = agreement(times[0], _overall(rubric, others), results)
    experts = _with_experts(rubric, subjects, identities, verdicts, plan, settings.experts)
    agreed = [float(v.consistent) for given in verdicts for v in given if v.consistent is not None]
    missing = sum(one.scores is None for given in verdicts for one in given)
    check = {
        "position_consistency": statistics.fmean(agreed) if agreed else None,
        "position_items": len(agreed),
        "retest": None if again is None else asdict(again),
        "second_judge": None if second is None else asdict(second),
        "experts": None if experts is None else asdict(experts),
    }
    words = [f"judged by {plan.settings.model}, prompts {plan.public()['prompts']}"]
    if agreed:
        words.append(f"position consistency {statistics.fmean(agreed):.2f} (n = {len(agreed)})")
    words += _words(again, settings, second, experts)
    words.append(f"{missing} unjudged")
    return {"check": _plain(check), "line": "; ".join(words)}


def _words(
    again: Retest | None,
    settings: CheckSettings,
    second: Agreement | None,
    experts: Agreement | None,
) -> list[str]:
    words = []
    if again is not None:
        words.append(
            f"repeat sd {again.sd:.2f}, ICC {_shown(again.icc)} "
            f"({again.repeats} times {again.items} answers)"
        )
    if second is not None and settings.second is not None:
        kappa = "" if second.kappa is None else f"kappa {_shown(second.kappa)}, "
        words.append(
            f"with {settings.second}: {kappa}tau {_shown(second.tau)} (n = {second.items})"
        )
    if experts is not None:
        words.append(f"with experts: tau {_shown(experts.tau)} (n = {experts.items})")
    return words


def _shown(value: float) -> str:
    return "undefined (no variation)" if math.isnan(value) else f"{value:.2f}"


def _plain(value: Any) -> Any:
    """Data without NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _ask(
    plan: JudgePlan, rubric: Rubric, subjects: Sequence[Subject], repeat: int = 0
) -> list[tuple[Verdict, ...]]:
    judge = shared_judge(plan.settings)
    return judge_all(judge, rubric, subjects, reference_model=plan.reference_model, repeat=repeat)


def _overall(rubric: Rubric, verdicts: Sequence[tuple[Verdict, ...]]) -> list[float | None]:
    return [rubric.overall(given) for given in verdicts]


def _results(verdicts: Sequence[tuple[Verdict, ...]]) -> list[str | None]:
    """Win, tie or loss of each document; of a conversation, of its turns together."""
    return [" ".join(str(one.result) for one in given) for given in verdicts]


def _with_experts(
    rubric: Rubric,
    subjects: Sequence[Subject],
    identities: Sequence[Sequence[str]],
    verdicts: Sequence[tuple[Verdict, ...]],
    plan: JudgePlan,
    experts: Sequence[ExpertScore],
) -> Agreement | None:
    """Judge the answers that experts scored, and compare."""
    places = {name: i for i, names in enumerate(identities) for name in names}
    known = [(places[one.identity], one) for one in experts if one.identity in places]
    if not known:
        return None
    asked = [
        replace(subjects[i], answers=(one.answer,)) for i, one in known if one.answer is not None
    ]
    if any(len(subjects[i].answers) != 1 for i, one in known if one.answer is not None):
        raise SettingsError("--experts: answers of several turns cannot be given; leave them out.")
    given = iter(_ask(plan, rubric, asked))
    scores = [
        rubric.overall(verdicts[i] if one.answer is None else next(given)) for i, one in known
    ]
    return agreement(scores, [one.score for _, one in known])
