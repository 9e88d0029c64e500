# SPDX-License-Identifier: Apache-2.0
"""Scores of single documents, and their normalisation.

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
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "answer_in_context",
    "contains",
    "exact_match",
    "f1",
    "first_line",
    "normalize_answer",
    "normalize_spelling",
    "score_answers",
    "score_choices",
    "score_names",
    "score_open_answers",
    "score_page",
    "token_f1",
]

# ASCII punctuation and the quotation marks that the official script adds; each becomes a space.
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "\u2018\u2019\u00b4`", " "))
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")

Normalize = Callable[[str], str]


def normalize_answer(text: str) -> str:
    """Lower-case, drop punctuation and English articles, collapse white space (TriviaQA's rule).

    >>> normalize_answer("The  Rock-'n'-Roll_Era.")
    'rock n roll era'
    >>> normalize_answer("A")
    ''
    """
    plain = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


class _Folding(dict[int, "str | None"]):
    """Replacements of characters for ``str.translate``, by Unicode category."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        kind = unicodedata.category(character)
        kept: str | None = " " if kind[0] in "PS" else character
        # Cf: zero-width spaces, soft hyphens, marks of direction.
        if unicodedata.combining(character) or kind == "Cf":
            kept = None
        return self.setdefault(code, kept)


_FOLDING = _Folding()


def normalize_spelling(text: str) -> str:
    """:func:`normalize_answer` that ignores accents, width, quotes and dashes.

    NFKC, case folding, NFKD without combining marks and invisible characters, a space for every
    punctuation mark and symbol (Unicode P* and S*), English articles dropped.

    >>> normalize_spelling("Fre\u0301de\u0301ric\u2014\u201cChopin\u201d \u2026")
    'frederic chopin'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    plain = unicodedata.normalize("NFKD", folded).translate(_FOLDING)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact_match(
    prediction: str, aliases: Iterable[str], normalize: Normalize = normalize_answer
) -> float:
    """1.0 when the prediction is one of the aliases after normalisation, else 0.0.

    >>> exact_match("the Beatles!", ["Beatles", "Fab Four"])
    1.0
    >>> exact_match("", [""]), exact_match("[]", ["[]"]), exact_match("!", ["[]"])
    (0.0, 1.0, 0.0)
    """
    return _best(prediction, aliases, normalize, lambda said, gold: float(said == gold))


def f1(prediction: str, aliases: Iterable[str], normalize: Normalize = normalize_answer) -> float:
    """Harmonic mean of token precision and recall, the best over the aliases; between 0 and 1.

    >>> f1("Sir Isaac Newton", ["Isaac Newton"])
    0.8
    """
    return _best(prediction, aliases, normalize, token_f1)


def contains(prediction: str, aliases: Iterable[str]) -> float:
    """1.0 when some alias occurs in the prediction as a run of whole tokens, else 0.0.

    Token boundaries matter: "art" is not in "heart", nor "1" in "1914". Spelling does not
    (:func:`normalize_spelling`).

    >>> contains("It was Sandi Toksvig, I think", ["sandi toksvig"])
    1.0
    >>> contains("the heart of it", ["art"])
    0.0
    """
    # A space on either side turns "run of whole tokens" into a substring test.
    return _best(
        prediction,
        aliases,
        normalize_spelling,
        lambda said, gold: float(f" {gold} " in f" {said} "),
    )


def _best(
    prediction: str,
    aliases: Iterable[str],
    normalize: Normalize,
    score: Callable[[str, str], float],
) -> float:
    """The best score over the aliases.

    An alias that normalisation empties ("A", "The", "[]") would equal silence and be in every text;
    it counts where the prediction is that text, ignoring case and outer white space.
    """
    said = normalize(prediction)
    return max(
        (
            score(said, gold) if (gold := normalize(alias)) else _is_literally(prediction, alias)
            for alias in aliases
        ),
        default=0.0,
    )


def _is_literally(prediction: str, alias: str) -> float:
    gold = alias.strip().casefold()
    return float(bool(gold) and prediction.strip().casefold() == gold)


def answer_in_context(context: str, aliases: Iterable[str]) -> float:
    """1.0 when the evidence in the prompt holds some alias, else 0.0.

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


def token_f1(said: str, gold: str) -> float:
    """Token F1 of two normalised texts."""
    first, second = said.split(), gold.split()
    common = sum((Counter(first) & Counter(second)).values())
    # 2PR/(P+R) with P = common/len(first) and R = common/len(second)
    return 2 * common / (len(first) + len(second)) if common else 0.0


def score_answers(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Score the first line of a generated answer against ``doc["aliases"]``.

    ``exact_match`` and ``f1`` are TriviaQA's official ones.
    """
    return _score(doc, results, normalize_answer)


def score_names(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """As :func:`score_answers`, ignoring spelling."""
    return _score(doc, results, normalize_spelling)


def _score(
    doc: Mapping[str, Any], results: Sequence[str], normalize: Normalize
) -> dict[str, float]:
    said, aliases = first_line(results[0]), doc["aliases"]
    return {
        "contains": contains(said, aliases),
        "exact_match": exact_match(said, aliases, normalize),
        "f1": f1(said, aliases, normalize),
    }


def score_open_answers(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """:func:`score_answers`, and whether ``doc["evidence"]`` holds the answer."""
    return score_answers(doc, results) | {
        "answer_in_context": answer_in_context(doc["evidence"], doc["aliases"])
    }


def score_choices(
    doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]
) -> dict[str, float]:
    """Whether the gold choice is the likeliest, and whether greedy decoding would say it.

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
    """Log-likelihood of a page, with its size in words and bytes.

    Both are counted before detokenisation, as lm-eval's own ``wikitext`` task does, so that the
    figures can be compared.
    """
    page = doc["page"]
    return {
        "word_perplexity": (results[0], len(re.split(r"\s+", page))),
        "byte_perplexity": (results[0], len(page.encode("utf-8"))),
    }
