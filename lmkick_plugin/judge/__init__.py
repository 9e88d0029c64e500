# SPDX-License-Identifier: Apache-2.0
"""Answers judged by a strong model: prompts, client, reply store and the reading of replies."""

from __future__ import annotations

from lmkick_plugin.judge.parser import parse_aspect_grades, parse_aspects, parse_pair, parse_single

__all__ = ["parse_aspect_grades", "parse_aspects", "parse_pair", "parse_single"]
