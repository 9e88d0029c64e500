# SPDX-License-Identifier: Apache-2.0
"""Reader of lm-eval's per-item files, ``samples_<task>_<time>.jsonl``.

A line holds one item's document, prompts, answers and metric values. Files of long-document tasks
reach gigabytes, so each line is reduced while reading to what a comparison needs: fingerprints of
document, prompt and settings, the metric values, and the answer that was chosen.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from compressors.errors import LmkickError
from lmkick_plugin.files import parse_json

__all__ = [
    "Choice",
    "Sample",
    "SamplesError",
    "Value",
    "asked_once",
    "chosen",
    "normalised_text",
    "read_samples",
    "scored_choices",
]

Value: TypeAlias = float | tuple[float, ...] | str | None
"""An item's metric: a number, several (a sum and its weight; losses of windows), a word for a form
of which nothing is known, or None where the item has no score (a judge's unusable reply)."""

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_REQUIRED = ("doc_id", "doc_hash", "arguments", "filtered_resps", "metrics")


class SamplesError(LmkickError, ValueError):
    """A samples file that cannot be read; the message names the file and line."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice of a multiple-choice item as the model scored it."""

    context: str
    text: str
    loglikelihood: float
    greedy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One item under one filter, reduced to what comparisons need.

    Attributes:
        doc_id: Index in the evaluated split.
        doc_hash, target: Fingerprints of the document and of its reference answer.
        prompt: Fingerprint of every text handed to the model, choices included.
        settings: Fingerprint of the generation settings handed along.
        values: Metric values by metric name.
        choices: The scored choices, of a multiple-choice item.
        text: The normalised answer, of a generated one.
        empty: Share of its generated answers that are empty; None where nothing was generated.
        cluster: What items that are not independent have in common: the document's ``cluster``
            where the task gives one, else the prompt; None where there is neither.
        windows: Cluster of each window, of a text scored in windows; None where not known.
    """

    doc_id: int
    doc_hash: str
    target: str
    prompt: bytes
    settings: bytes
    values: Mapping[str, Value]
    choices: tuple[Choice, ...] | None
    text: str | None
    empty: float | None = None
    cluster: str | None = None
    windows: tuple[str, ...] | None = None

    def answer(self, metric: str, *, target_delimiter: str = " ") -> object | None:
        """The model's answer as this metric sees it.

        Args:
            metric: Metric name.
            target_delimiter: As in `chosen`.

        Returns:
            Something to compare for equality; None where the answer is not known.
        """
        if self.choices is None:
            return self.text
        return chosen(metric, self.choices, metrics=self.values, target_delimiter=target_delimiter)


def asked_once(choices: Sequence[Choice]) -> Sequence[Choice]:
    """The choices after their prompt, without those asked once more after nothing."""
    half = len(choices) // 2
    first, second = choices[:half], choices[half:]
    again = [c.text for c in first] == [c.text for c in second]
    return first if again and all(c.context == "" for c in second) else choices


def chosen(
    metric: str,
    choices: Sequence[Choice],
    *,
    metrics: Collection[str] = (),
    target_delimiter: str = " ",
) -> int | tuple[bool, ...] | None:
    """The choice that a metric takes for the model's answer.

    Args:
        metric: Metric name; ``acc_norm`` and ``acc_bytes`` choose by log-likelihood a character or
            byte, ``acc_mutual_info`` and ``acc_pmi`` against the choice without context,
            ``acc_greedy`` by what is the model's own next token.
        choices: The choices as scored.
        metrics: All metrics of the item. One with ``acc_pmi`` is of this package's recall tasks,
            whose ``acc_norm`` divides by bytes, too: another answer than by characters where
            names have letters beyond ASCII.
        target_delimiter: What the task puts between prompt and choice, which lm-eval does not
            count as the choice's length.

    Returns:
        Index of the choice, -1 where the metric takes none; of ``acc_greedy``, whether each choice
        is the model's own; None where the answer is not known.
    """
    asked = asked_once(choices)
    if metric == "acc_greedy":
        return tuple(c.greedy for c in asked)
    recall = "acc_pmi" in metrics
    scores = [c.loglikelihood for c in asked]
    if metric in ("acc_norm", "acc_bytes"):
        if len({c.context for c in asked}) > 1:
            return None  # the choices are in the contexts: their lengths are unknown here
        names = [c.text.removeprefix(target_delimiter) for c in asked]
        by_bytes = recall or metric == "acc_bytes"
        lengths = [len(name.encode() if by_bytes else name) for name in names]
        if not all(lengths):
            return None
        scores = [score / length for score, length in zip(scores, lengths, strict=True)]
    elif metric in ("acc_mutual_info", "acc_pmi"):
        if len(asked) == len(choices):
            return None
        alone = choices[len(asked) :]
        scores = [score - c.loglikelihood for score, c in zip(scores, alone, strict=True)]
    if recall and any(map(math.isnan, scores)):
        return -1  # `score_choice` takes it for wrong, whichever is right
    return int(np.argmax(scores))  # the first of equals, and a NaN before all: as lm-eval does


def normalised_text(text: str) -> str:
    """A generated answer, normalised.

    Args:
        text: Generated text.

    Returns:
        Case-folded, without punctuation, English articles and superfluous blanks.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(" " if unicodedata.category(c).startswith("P") else c for c in folded)
    return " ".join(_ARTICLES.sub(" ", words).split())


def read_samples(path: Path) -> dict[str, list[Sample]]:
    """Read a samples file.

    Args:
        path: The file.

    Returns:
        Items by filter name, in the order of their ``doc_id`` (ranks of a data-parallel run
        write theirs one after the other).

    Raises:
        SamplesError: For a line that is not a whole record, naming it.
        OSError: If the file cannot be read.
    """
    by_filter: dict[str, list[Sample]] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = parse_json(line)
                sample = _reduce(record)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                hint = "" if line.endswith(b"\n") else ": the file is truncated"
                raise SamplesError(
                    f"{path}, line {number}: not a sample of lm-eval{hint or f' ({error})'}; run "
                    "the evaluation again"
                ) from error
            by_filter.setdefault(str(record.get("filter", "none")), []).append(sample)
    if not by_filter:
        raise SamplesError(f"{path} is empty; run the evaluation again")
    for samples in by_filter.values():
        samples.sort(key=lambda sample: sample.doc_id)
    return by_filter


def scored_choices(record: Mapping[str, Any]) -> tuple[Choice, ...] | None:
    """The choices of a sample's line, scored; None where it is not a multiple-choice item."""
    texts = [[a for a in r.values() if isinstance(a, str)] for r in record["arguments"].values()]
    return _choices(texts, record["filtered_resps"])


def _reduce(record: dict[str, Any]) -> Sample:
    missing = [field for field in _REQUIRED if field not in record]
    if missing:
        raise ValueError(f"without {', '.join(missing)}")
    requests = [list(arguments.values()) for arguments in record["arguments"].values()]
    texts = [[a for a in request if isinstance(a, str)] for request in requests]
    others = [[a for a in request if not isinstance(a, str)] for request in requests]
    responses = record["filtered_resps"]
    prompt = _fingerprint_of_texts(texts)
    return Sample(
        doc_id=int(record["doc_id"]),
        doc_hash=str(record["doc_hash"]),
        target=str(record.get("target_hash", record.get("target"))),
        prompt=prompt,
        settings=_fingerprint(others),
        values={str(metric): _value(record[metric]) for metric in record["metrics"]},
        choices=_choices(texts, responses),
        text=_text(others, responses),
        empty=_empty(others, responses),
        cluster=_cluster(record.get("doc"), texts, prompt),
        windows=_windows(record),
    )


def _cluster(doc: object, texts: Sequence[Sequence[str]], prompt: bytes) -> str | None:
    given = doc.get("cluster") if isinstance(doc, dict) else None
    if isinstance(given, str | int):
        return str(given)
    return prompt.hex() if any(text for request in texts for text in request) else None


def _windows(record: Mapping[str, Any]) -> tuple[str, ...] | None:
    for metric in record["metrics"]:
        value = record[metric]
        if isinstance(value, dict) and isinstance(value.get("window_clusters"), list):
            return tuple(map(str, value["window_clusters"]))
    return None


def _fingerprint(value: object) -> bytes:
    dumped = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(dumped.encode(), digest_size=16).digest()


def _fingerprint_of_texts(requests: Sequence[Sequence[str]]) -> bytes:
    """Fingerprint of choices that reads a shared prompt once."""
    numbers: dict[str, int] = {}
    layout = [[numbers.setdefault(text, len(numbers)) for text in texts] for texts in requests]
    return _fingerprint([list(numbers), layout])


def _value(raw: object) -> Value:
    if raw is None:
        return None
    if isinstance(raw, int | float):
        return float(raw)
    if isinstance(raw, dict) and "window_losses" in raw:
        return tuple(float(loss) for loss in raw["window_losses"])  # of kickonly_perplexity
    if isinstance(raw, list) and raw and all(type(x) in (int, float) for x in raw):
        return tuple(float(x) for x in raw)
    return f"a {type(raw).__name__}"


def _choices(
    texts: Sequence[Sequence[str]], responses: Sequence[object]
) -> tuple[Choice, ...] | None:
    """Scored choices; None unless every response is a log-likelihood and a greedy flag."""
    if len(responses) < 2 or len(responses) != len(texts):
        return None
    choices = []
    for request, response in zip(texts, responses, strict=True):
        if len(request) != 2 or not isinstance(response, list) or len(response) != 2:
            return None
        loglikelihood, greedy = (str(part) for part in response)
        if greedy not in ("True", "False"):
            return None
        choices.append(Choice(request[0], request[1], float(loglikelihood), greedy == "True"))
    return tuple(choices)


def _text(others: Sequence[Sequence[object]], responses: Sequence[object]) -> str | None:
    """Generated answer; None unless the item is one request with generation settings."""
    if not _generated(others) or len(responses) != 1 or not isinstance(responses[0], str):
        return None
    return normalised_text(responses[0])


def _empty(others: Sequence[Sequence[object]], responses: Sequence[object]) -> float | None:
    if not _generated(others):
        return None
    # lm-eval hands on the samples of one request as a list in the first place.
    listed = responses[0] if responses and isinstance(responses[0], list) else responses
    answers = [answer for answer in listed if isinstance(answer, str)]
    if not answers or len(answers) != len(listed):
        return None
    return sum(not answer.strip() for answer in answers) / len(answers)


def _generated(others: Sequence[Sequence[object]]) -> bool:
    """Whether the item is one request with generation settings."""
    return len(others) == 1 and any(isinstance(other, dict) for other in others[0])
