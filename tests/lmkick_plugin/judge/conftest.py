# SPDX-License-Identifier: Apache-2.0
"""A judge for tests: tiny pauses, a store of its own, a key that must never show up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmkick_plugin.judge import Item, Judge, JudgeSettings
from tests.task_yaml.conftest import evaluate as evaluate  # fixtures
from tests.task_yaml.conftest import make_manager as make_manager
from tests.task_yaml.conftest import tiny_data as tiny_data
from tests.task_yaml.conftest import tiny_manager as tiny_manager

KEY = "sk-test-THIS-IS-SECRET-0123456789"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LMKICK_JUDGE_API_KEY", KEY)
    return KEY


MakeJudge = Callable[..., Judge]


@pytest.fixture
def make_judge(tmp_path: Path) -> MakeJudge:
    def make(url: str | None, **settings: Any) -> Judge:
        values: dict[str, Any] = {
            "model": "judge",
            "base_url": url,
            "store": str(tmp_path / "replies.sqlite3"),
            "backoff": 0.001,
            "timeout": 5.0,
            "retries": 2,
            "concurrency": 4,
            **settings,
        }
        return Judge(JudgeSettings(**values))

    return make


def items(count: int = 3, **keywords: Any) -> list[Item]:
    """Items that differ, each with a reference."""
    return [
        Item(
            question=f"Question {i}?", answer=f"My answer {i}.", reference=f"Other {i}.", **keywords
        )
        for i in range(count)
    ]
