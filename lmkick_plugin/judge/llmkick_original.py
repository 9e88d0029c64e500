# SPDX-License-Identifier: Apache-2.0
"""Judge prompts and reply parsing as in the released LLM-KICK code.

Quirk: scores are looked for in the first line (four lines, for a summary) and nowhere else, while
the prompt for mathematical questions asks for them at the end. The released code then averages such
items in as -1, or leaves them out by hand; here they are unjudged, and counted.

References:
    Jaiswal et al., arXiv:2310.01382, and its released code, VITA-Group/llm-kick.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["PROMPTS", "reads_pair", "reads_rows"]

PROMPTS = Path(__file__).with_name("llmkick_prompts.yaml")
"""Prompts in the released layout, in our words."""


def reads_pair(reply: str) -> bool:
    r"""Whether the first line is two numbers.

    >>> reads_pair("8 9\nBecause"), reads_pair("8, 9"), reads_pair("So I say (8, 9)")
    (True, False, False)
    """
    parts = reply.split("\n")[0].replace(",", " ").split(" ")
    return len(parts) == 2 and all(map(_is_number, parts))


def reads_rows(reply: str) -> bool:
    r"""Whether each of the first four lines begins with two numbers.

    >>> reads_rows("8 9\n7 7\n9 9\n8 8\nBecause"), reads_rows("Coherence: 8 9")
    (True, False)
    """
    lines = reply.split("\n")[:4]
    rows = [line.split(" ")[:2] for line in lines]
    return len(rows) == 4 and all(len(row) == 2 and all(map(_is_number, row)) for row in rows)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
