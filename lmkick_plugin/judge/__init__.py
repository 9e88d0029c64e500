# SPDX-License-Identifier: Apache-2.0
"""Answers judged by a strong model: prompts, client, reply store and the reading of replies."""

from __future__ import annotations

from lmkick_plugin.judge.client import Outcome
from lmkick_plugin.judge.items import LOWEST_SCORE, Item
from lmkick_plugin.judge.judge import Judge, Summary, shared_judge
from lmkick_plugin.judge.parsing.parser import (
    parse_aspect_grades,
    parse_aspects,
    parse_pair,
    parse_single,
)
from lmkick_plugin.judge.prompts import Prompts
from lmkick_plugin.judge.reply_store import Reply, ReplyStore, StoreError
from lmkick_plugin.judge.settings import JudgeSettings
from lmkick_plugin.judge.verdicts import Verdict

__all__ = [
    "LOWEST_SCORE",
    "Item",
    "Judge",
    "JudgeSettings",
    "Outcome",
    "Prompts",
    "Reply",
    "ReplyStore",
    "StoreError",
    "Summary",
    "Verdict",
    "parse_aspect_grades",
    "parse_aspects",
    "parse_pair",
    "parse_single",
    "shared_judge",
]
