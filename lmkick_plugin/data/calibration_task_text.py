# SPDX-License-Identifier: Apache-2.0
"""Training text of tasks in the task's own prompt format, without scored items.

Data sets repeat themselves: MMLU's development questions, for one, are partly in its test split
too. So a training text is also left out where its question, ignoring case and white space,
is asked in the scored part of that data set.

References:
    Khanal and Capone, arXiv:2409.11233: calibration on a task's own text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from lmkick_plugin.data import freebaseqa, instructions, mmlu, summarization, triviaqa
from lmkick_plugin.data.sources import DataError, HubFiles, Source, load_rows

__all__ = ["training_text"]

# One file of 26: some 5,000 questions with their documents are more than calibration can read.
_TRIVIAQA_OPEN = Source(
    "trivia_qa/rc_train.jsonl",
    (
        "question", "answer.value", "entity_pages.wiki_context", "search_results.search_context",
    ),
    HubFiles("mandarjoshi/trivia_qa", "rc/train-00000-of-*"),
)  # fmt: skip
_STORIES = Source(
    "cnn_dailymail/train.jsonl",
    ("article", "highlights"),
    HubFiles("abisee/cnn_dailymail", "3.0.0/train-00000-of-*"),
)

Item = tuple[str, str]  # what is asked, and the whole text


def training_text(name: str, data_dir: str | None = None) -> list[str]:
    """Training text of a task.

    Args:
        name: One of :data:`lmkick_plugin.recipe.calibration_source.TRAINING_TEXT`.
        data_dir: Folder of local data files.

    Returns:
        Texts: prompt and answer of one item each.

    Raises:
        DataError: The data is missing or malformed, or holds nothing that is not scored.
    """
    items, scored = _ITEMS[name]
    asked = {_key(question) for question in scored(data_dir)}
    texts = [text for question, text in items(data_dir) if _key(question) not in asked]
    if not texts:
        raise DataError(f"all training items of {name} are also scored, so none is left")
    return texts


def _key(question: str) -> str:
    return " ".join(question.split()).casefold()


def _alpaca(data_dir: str | None) -> Iterator[Item]:
    return map(_instruction, instructions.alpaca_training(data_dir))


def _unnatural(data_dir: str | None) -> Iterator[Item]:
    return map(_instruction, instructions.unnatural_training(data_dir))


def _instruction(row: Mapping[str, str]) -> Item:
    asked = instructions.prompt(row)
    return asked, f"{asked}\n\n{row['output']}"


def _none(_: str | None) -> list[str]:
    return []  # those tables have left out what is scored themselves


def _mmlu(data_dir: str | None) -> Iterator[Item]:
    for row in load_rows(mmlu.DEV, data_dir):
        asked = _mmlu_question(row)
        subject = row["subject"].replace("_", " ")
        intro = f"The following are multiple choice questions (with answers) about {subject}."
        yield asked, f"{intro}\n\n{asked}\nAnswer: {mmlu.LETTERS[row['answer']]}"


def _mmlu_question(row: Mapping[str, Any]) -> str:
    choices = zip(mmlu.LETTERS, row["choices"], strict=True)
    return "\n".join([row["question"].strip(), *(f"{letter}. {text}" for letter, text in choices)])


def _mmlu_scored(data_dir: str | None) -> Iterator[str]:
    return (_mmlu_question(row) for row in load_rows(mmlu.TEST, data_dir))


def _freebaseqa(data_dir: str | None) -> Iterator[Item]:
    # llmkick_freebaseqa scores the first questions of the train split.
    rows = islice(load_rows(freebaseqa.TRAIN, data_dir), freebaseqa.RELEASED_QUESTIONS, None)
    for row in rows:
        asked = row["RawQuestion"]
        try:
            answer = row["Parses"][0]["Answers"][0]["AnswersName"][0]
        except (IndexError, KeyError, TypeError):
            continue  # a question without an answer teaches nothing
        yield asked, freebaseqa.SOLVED.format(asked, answer)


def _freebaseqa_scored(data_dir: str | None) -> Iterator[str]:
    for row in load_rows(freebaseqa.EVAL, data_dir):
        yield row["RawQuestion"]
    for row in islice(load_rows(freebaseqa.TRAIN, data_dir), freebaseqa.RELEASED_QUESTIONS):
        yield row["RawQuestion"]


def _triviaqa_closed(data_dir: str | None) -> Iterator[Item]:
    for row in load_rows(triviaqa.TRAIN, data_dir):
        asked = row["question"]
        solved = triviaqa.SOLVED.format(asked, row["answer"]["value"])
        yield asked, f"Answer these questions:\n\n{solved}"


def _triviaqa_open(data_dir: str | None) -> Iterator[Item]:
    for row in load_rows(_TRIVIAQA_OPEN, data_dir):
        cut = triviaqa.evidence(row, triviaqa.EVIDENCE_CHARS)
        asked = row["question"]
        solved = triviaqa.SOLVED.format(asked, row["answer"]["value"])
        yield asked, f"{cut}\n\nBased on these texts, answer these questions:\n\n{solved}"


def _triviaqa_scored(source: Source) -> Callable[[str | None], Iterator[str]]:
    def scored(data_dir: str | None) -> Iterator[str]:
        return (row["question"] for row in load_rows(source, data_dir))

    return scored


def _summarization(data_dir: str | None) -> Iterator[Item]:
    task = (
        "Summarize the given story in less than 150 words while preserving high coherence, "
        "consistency, fluency, and relevance."
    )
    for row in load_rows(_STORIES, data_dir):
        yield row["article"], f"{task}\n\n{row['article']}\n\n{row['highlights']}"


def _summarization_scored(data_dir: str | None) -> Iterator[str]:
    return (row["article"] for row in load_rows(summarization.TEST, data_dir))


_ITEMS: dict[
    str, tuple[Callable[[str | None], Iterable[Item]], Callable[[str | None], Iterable[str]]]
] = {
    "alpaca": (_alpaca, _none),
    "freebaseqa": (_freebaseqa, _freebaseqa_scored),
    "mmlu": (_mmlu, _mmlu_scored),
    "summarization": (_summarization, _summarization_scored),
    "triviaqa_closed": (_triviaqa_closed, _triviaqa_scored(triviaqa.CLOSED)),
    "triviaqa_open": (_triviaqa_open, _triviaqa_scored(triviaqa.OPEN)),
    "unnatural": (_unnatural, _none),
}
