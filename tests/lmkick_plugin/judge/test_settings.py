# SPDX-License-Identifier: Apache-2.0
"""Settings of the judge: from metadata and environment, never a key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmkick_plugin.judge import JudgeSettings
from lmkick_plugin.judge.settings import api_key, default_store


def test_no_model_is_no_judge() -> None:
    assert JudgeSettings.read({}, {}) is None
    assert JudgeSettings.read({"judge_concurrency": 2, "data_dir": "x"}, {}) is None
    assert JudgeSettings.read({"judge_model": None}, {"LMKICK_JUDGE_MODEL": "m"}) is None


def test_metadata_wins_over_the_environment() -> None:
    environment = {
        "LMKICK_JUDGE_MODEL": "from environment",
        "LMKICK_JUDGE_CONCURRENCY": "3",
        "LMKICK_JUDGE_API_KEY": "secret",
    }
    metadata = {
        "judge_model": "m",
        "judge_base_url": "http://127.0.0.1:1/v1/",
        "judge_max_requests": 7.0,
        "judge_temperature": "0.1",
        "data_dir": "elsewhere",
    }
    settings = JudgeSettings.read(metadata, environment)
    assert settings == JudgeSettings(
        model="m",
        base_url="http://127.0.0.1:1/v1",
        concurrency=3,
        max_requests=7,
        temperature=0.1,
    )
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"judge_modle": "m"}, "Did you mean 'judge_model'"),
        ({"judge_concurrency": "many"}, "judge_concurrency='many'"),
        ({"judge_concurrency": 0}, "judge_concurrency=0"),
        ({"judge_timeout": 0}, "judge_timeout"),
        ({"judge_retries": -1}, "judge_retries=-1"),
        ({"judge_order": "swapped"}, "judge_order"),
        ({"judge_structured": "yes"}, "judge_structured"),
        ({"judge_base_url": "localhost:8000"}, "http://127.0.0.1:8000/v1"),
        ({"judge_base_url": "https://me:pa55@host/v1"}, "export LMKICK_JUDGE_API_KEY"),
        ({"judge_base_url": "https://host/v1?key=pa55"}, "export LMKICK_JUDGE_API_KEY"),
        ({"judge_api_key": "pa55"}, "export LMKICK_JUDGE_API_KEY"),
    ],
)
def test_wrong_settings_are_refused_with_a_remedy(metadata: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="judge_") as caught:
        JudgeSettings.read({"judge_model": "m", **metadata}, {})
    assert words in str(caught.value)
    assert "pa55" not in str(caught.value)


def test_wrong_environment_names_the_variable() -> None:
    environment = {"LMKICK_JUDGE_MODEL": "m", "LMKICK_JUDGE_TIMEOUT": "soon"}
    with pytest.raises(ValueError, match="LMKICK_JUDGE_TIMEOUT='soon'"):
        JudgeSettings.read({}, environment)


def test_places(tmp_path: Path) -> None:
    assert default_store({"LMKICK_CACHE_DIR": "/a"}) == Path("/a/judge_replies.sqlite3")
    assert default_store({"XDG_CACHE_HOME": "/b"}) == Path("/b/lmkick/judge_replies.sqlite3")
    assert api_key({"OPENAI_API_KEY": "o"}) == "o"
    assert api_key({"OPENAI_API_KEY": "o", "LMKICK_JUDGE_API_KEY": "j"}) == "j"
    assert api_key({"OPENAI_API_KEY": ""}) is None
