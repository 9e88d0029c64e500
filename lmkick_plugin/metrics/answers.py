# SPDX-License-Identifier: Apache-2.0
"""Scores of single documents, and how they are brought together.

Everything here is a pure function of strings and numbers. The functions ``score_*`` have the shape
``process_results(doc, results)`` that lm-eval calls, one document at a time, and return one value
for each metric. An empty gold answer never counts as found.

References:
    Joshi et al., "TriviaQA", arXiv:1705.03551: normalisation, exact match and token F1 are the
    rules of its official evaluation script.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "answer_in_context",
    "contains",
    "exact_match",
    "f1",
    "first_line",
    "normalize_answer",
    "score_answers",
    "score_choices",
    "score_open_answers",
    "score_page",
    "token_perplexity",
    "weighted_perplexity",
]

# ASCII punctuation and the quotation marks that the official script adds; each becomes a space.
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "\u2018\u2019\u00b4`", " "))
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Lower-case, drop punctuation and English articles, collapse white space (TriviaQA's rule).

    >>> normalize_answer("The  Rock-'n'-Roll_Era.")
    'rock n roll era'
    >>> normalize_answer("A")
    ''
    """
    plain = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact_match(prediction: str, aliases: Iterable[str]) -> float:
    """1.0 when the prediction is one of the aliases after normalisation, else 0.0.

    >>> exact_match("the Beatles!", ["Beatles", "Fab Four"])
    1.0
    >>> exact_match("", [""])
    0.0
    """
    said = normalize_answer(prediction)
    return float(any(said == gold for gold in _golds(aliases)))


def f1(prediction: str, aliases: Iterable[str]) -> float:
    """Harmonic mean of token precision and recall, the best over the aliases; between 0 and 1.

    >>> f1("Sir Isaac Newton", ["Isaac Newton"])
    0.8
    """
    said = normalize_answer(prediction).split()
    return max((_overlap(said, gold.split()) for gold in _golds(aliases)), default=0.0)


def contains(prediction: str, aliases: Iterable[str]) -> float:
    """1.0 when some alias occurs in the prediction as a run of whole tokens, else 0.0.

    Token boundaries matter: "art" is not in "heart", nor "1" in "1914".

    >>> contains("It was Sandi Toksvig, I think", ["sandi toksvig"])
    1.0
    >>> contains("the heart of it", ["art"])
    0.0
    """
    # A space on either side turns "run of whole tokens" into a substring test.
    said = f" {normalize_answer(prediction)} "
    return float(any(f" {gold} " in said for gold in _golds(aliases)))


def answer_in_context(context: str, aliases: Iterable[str]) -> float:
    """1.0 when the evidence shown to the model holds some alias: what reading alone could answer.

    >>> answer_in_context("Paris is the capital of France.", ["Lyon", "Paris"])
    1.0
    """
    return contains(context, aliases)


def first_line(text: str) -> str:
    r"""The first line without its outer white space; models that ignore stop strings run on.

    >>> first_line(" Paris\nQ: And of Spain?")
    'Paris'
    """
    return text.split("\n", 1)[0].strip()


def _golds(aliases: Iterable[str]) -> list[str]:
    # An alias that normalisation empties ("A", "The") would equal silence and be in every text.
    return [gold for gold in map(normalize_answer, aliases) if gold]


def _overlap(said: Sequence[str], gold: Sequence[str]) -> float:
    common = sum((Counter(said) & Counter(gold)).values())
    # 2PR/(P+R) with P = common/len(said) and R = common/len(gold)
    return 2 * common / (len(said) + len(gold)) if common else 0.0


def _exp(value: float) -> float:
    # A model broken by compression can be worse than a float can say. An exception here would lose
    # the results of all other tasks.
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def weighted_perplexity(items: Iterable[tuple[float, int]]) -> float:
    """exp(-sum of log-likelihoods / sum of weights), infinity where a float cannot hold it.

    Args:
        items: one (log-likelihood in nats, number of words or bytes) a document.

    >>> round(weighted_perplexity([(-2.0, 1), (-4.0, 2)]), 4)
    7.3891
    """
    pairs = list(items)
    weight = sum(count for _, count in pairs)
    return _exp(-sum(value for value, _ in pairs) / weight) if weight else math.nan


def token_perplexity(items: Iterable[Mapping[str, Any]]) -> float:
    """exp(mean over windows of the mean loss in each), as the pruning papers report it.

    Args:
        items: one mapping a process that scored windows; ``window_losses`` holds the mean negative
            log-likelihood in nats of each.

    Returns:
        The perplexity; NaN where not a single window was scored.

    References:
        Frantar & Alistarh, "SparseGPT", arXiv:2301.00774, section 4.

    >>> round(token_perplexity([{"window_losses": [1.0, 2.0]}, {"window_losses": [3.0]}]), 4)
    7.3891
    """
    losses = [loss for item in items for loss in item["window_losses"]]
    return _exp(math.fsum(losses) / len(losses)) if losses else math.nan


def score_answers(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Score the first line of a generated answer against ``doc["aliases"]``."""
    said, aliases = first_line(results[0]), doc["aliases"]
    return {
        "contains": contains(said, aliases),
        "exact_match": exact_match(said, aliases),
        "f1": f1(said, aliases),
    }


def score_open_answers(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """:func:`score_answers`, and whether ``doc["evidence"]`` holds the answer at all."""
    return score_answers(doc, results) | {
        "answer_in_context": answer_in_context(doc["evidence"], doc["aliases"])
    }


def score_choices(
    doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]
) -> dict[str, float]:
    """Is the gold choice the likeliest of those offered, and is it what the model would say?

    Args:
        doc: ``answer`` is the index of the gold choice.
        results: one (log-likelihood, is it the model's own greedy continuation) a choice.

    Returns:
        ``acc``: the gold choice has the highest log-likelihood (the first of equals, as lm-eval
        counts). ``acc_greedy``: the gold choice is the greedy continuation over the whole
        vocabulary, which also catches a model that no longer answers with a letter. Both are 0
        where a log-likelihood is not a number: such a model has answered nothing.
    """
    scores = [score for score, _ in results]
    gold = int(doc["answer"])
    broken = any(math.isnan(score) for score in scores)
    return {
        "acc": float(not broken and scores.index(max(scores)) == gold),
        "acc_greedy": float(not broken and bool(results[gold][1])),
    }


def score_page(doc: Mapping[str, Any], results: Sequence[float]) -> dict[str, tuple[float, int]]:
    """Log-likelihood of a page with its size in words and in bytes.

    Both are counted before detokenisation, as lm-eval's own ``wikitext`` task does, so that the
    figures can be compared.
    """
    page = doc["page"]
    return {
        "word_perplexity": (results[0], len(re.split(r"\s+", page))),
        "byte_perplexity": (results[0], len(page.encode("utf-8"))),
    }
