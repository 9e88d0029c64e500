# SPDX-License-Identifier: Apache-2.0
"""Settings of the judge: from metadata and environment, never a key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmkick_plugin.judge import JudgeSettings
from lmkick_plugin.judge.settings import api_key, default_store, endpoint_address


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


@pytest.mark.parametrize(
    "address",
    [
        *("http://me:pa55@host/v1", "http://pa55@host/v1", "http://host/v1?key=pa55"),
        *("http://host/v1#pa55", "http://host:pa55/v1", "http://me:pa55/word@host/v1"),
        *("http://[pa55/v1", "http://host:0/v1", "http://host:99999/v1", "http://host:-1/v1"),
        *("http://ho st/v1", "http://host/v1\n", "http://host\r\n/v1", "http://\u043dost/v1"),
        *("ftp://host/v1", "host:8000", "//host/v1", "http:///v1", "http://", "file:///etc/passwd"),
    ],
)
@pytest.mark.parametrize("name", ["base_url", "reference_base_url"])
def test_an_address_with_more_or_less_than_a_host_is_refused(address: str, name: str) -> None:
    given = {"judge_model": "m", f"judge_{name}": address}
    for metadata, environment in (
        (given, {}),
        ({}, {f"LMKICK_{key.upper()}": value for key, value in given.items()}),
    ):
        if address != address.strip():
            continue  # blanks around are taken off
        with pytest.raises(ValueError, match=f"(?i){name}") as caught:
            JudgeSettings.read(metadata, environment)
        assert "pa55" not in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        *("judge_api_key", "judge_key", "judge_apikey", "judge_token", "judge_openai_api_key"),
        *(
            "judge_password",
            "judge_secret",
            "judge_authorization",
            "JUDGE_API_KEY",
            "judge-api-key",
        ),
        *("judge_reference_api_key", "judge.key"),
    ],
)
def test_a_key_among_the_settings_is_refused_without_a_model_too(name: str) -> None:
    with pytest.raises(ValueError, match="export LMKICK_JUDGE_API_KEY") as caught:
        JudgeSettings.read({name: "pa55"}, {})
    assert "pa55" not in str(caught.value)


@pytest.mark.parametrize("name", ["judge_modle", "Judge_model", "judge-model", "judge_", "judge_x"])
def test_a_misspelt_setting_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a setting of the judge"):
        JudgeSettings.read({name: "m"}, {})
    variable = f"LMKICK_{name.upper().replace('-', '_')}X"
    with pytest.raises(ValueError, match=variable):
        JudgeSettings.read({}, {variable: "m"})


def test_what_is_not_the_judges_is_left_alone() -> None:
    others = {"judgement": "x", "judges": 3, "data_dir": "d", "api_key": "of another model"}
    assert JudgeSettings.read(others, {}) is None


@pytest.mark.parametrize("key", ["sk\npa55", "pa55 word", "pa55\x00", "pa55\x1b[31m", "pa55\u00e9"])
@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "LMKICK_JUDGE_API_KEY"])
def test_a_key_that_no_header_can_carry_is_never_shown(name: str, key: str) -> None:
    with pytest.raises(ValueError, match=name) as caught:
        api_key({name: key})
    assert "pa55" not in str(caught.value)
    assert api_key({name: " sk-good\n"}) == "sk-good", "blanks around are taken off"


@pytest.mark.parametrize("name", ["model", "reference", "prompt", "store"])
def test_control_characters_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"judge_{name} holds a control character"):
        JudgeSettings.read({"judge_model": "m", f"judge_{name}": "a\x1b[2Jb"}, {})


def test_the_address_is_the_default_only_where_none_is_given() -> None:
    assert endpoint_address("http://a/v1", {"OPENAI_BASE_URL": "http://b/v1"}) == "http://a/v1"
    assert endpoint_address(None, {"OPENAI_BASE_URL": "http://b/v1/"}) == "http://b/v1"
    assert endpoint_address(None, {}) == "https://api.openai.com/v1"
    with pytest.raises(ValueError, match="OPENAI_BASE_URL") as caught:
        endpoint_address(None, {"OPENAI_BASE_URL": "http://me:pa55@b/v1"})
    assert "pa55" not in str(caught.value)
