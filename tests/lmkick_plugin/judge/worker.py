# SPDX-License-Identifier: Apache-2.0
"""Judges a few items in a process of its own: ``worker.py URL STORE COUNT CONCURRENCY``."""

from __future__ import annotations

import sys

from lmkick_plugin.judge import Item, Judge, JudgeSettings


def main() -> None:
    url, store, count, concurrency = sys.argv[1:]
    settings = JudgeSettings(
        model="judge",
        base_url=url,
        store=store,
        concurrency=int(concurrency),
        backoff=0.001,
        timeout=20.0,
    )
    items = [
        Item(question=f"Question {i}?", answer=f"My answer {i}.", reference=f"Other {i}.")
        for i in range(int(count))
    ]
    judge = Judge(settings)
    verdicts = judge.grade(items)
    print(sum(verdict.scores is not None for verdict in verdicts), judge.summary.sent)


if __name__ == "__main__":
    main()
