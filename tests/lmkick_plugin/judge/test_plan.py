# SPDX-License-Identifier: Apache-2.0
"""A judge's settings are checked before any run, whatever its tasks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest

from lmkick_plugin.judge import Prompts
from lmkick_plugin.judge.plan import check_metadata
from lmkick_plugin.preflight.lm_eval_run import check_run, takes_part
from lmkick_plugin.terminal import CommandError

FINE = {"judge_model": "m", "judge_base_url": "http://127.0.0.1:9/v1"}


def options(metadata: Any) -> argparse.Namespace:
    """A run of another model on a task of lm-eval's own."""
    return argparse.Namespace(model="hf", tasks="hellaswag", metadata=metadata)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"judge_api_key": "pa55"}, "export LMKICK_JUDGE_API_KEY"),
        ({**FINE, "judge_token": "pa55"}, "export LMKICK_JUDGE_API_KEY"),
        ({"judge_base_url": "http://me:pa55@host/v1"}, "export LMKICK_JUDGE_API_KEY"),
        ({"judge_modle": "m"}, "Did you mean 'judge_model'"),
        ({**FINE, "judge_prompt": "/nowhere.yaml"}, "judge_prompt=/nowhere.yaml"),
        ({**FINE, "judge_reference": "best"}, "expected file:PATH"),
        ({"judge_timeout": "soon"}, "judge_timeout"),
    ],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_settings_are_refused_whatever_the_tasks(
    metadata: dict[str, Any], words: str, as_text: bool
) -> None:
    given: Any = metadata
    if as_text:  # as plain lm_eval hands it on
        given = ",".join(f"{name}={value}" for name, value in metadata.items())
    assert takes_part(options(given)), "plain lm_eval run is checked too"
    with pytest.raises(ValueError, match="judge_") as caught:
        check_run(options(given))
    assert words in str(caught.value)
    assert "pa55" not in str(caught.value)


def test_what_judging_needs_is_missed_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    check_metadata(FINE)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ValueError, match="package openai is missing: pip install"):
        check_metadata(FINE)
    check_metadata({"data_dir": "x"})
    monkeypatch.setenv("LMKICK_JUDGE_MODEL", "m")
    check_metadata({"data_dir": "x"})  # the environment's judge concerns judged tasks alone


def test_an_unusable_store_is_missed_before_a_run(tmp_path: Path, tiny_data: Path) -> None:
    metadata = {**FINE, "data_dir": str(tiny_data), "judge_store": str(tmp_path)}
    given = argparse.Namespace(model="hf", tasks="kick_instruct", metadata=metadata)
    with pytest.raises(CommandError, match=r"\(it is a folder\). Give another") as caught:
        check_run(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1, 2]",
        b"- a: [b",
        b"\xff\xfe\x00",
        b"pair: 3",
        b"pair: [1]",
        b"pear: text",
        b"3: text",
        b"? [a]\n: b",
        b"a: &a [x]\nb: &b [*a, *a]\npair: [*b, *b]",
        b"pair: no placeholder",
        b"pair: '{answer_1} {answer_2} {question} {other}'",
        b"[" * 5000,
        b"!!python/object/apply:os.system ['true']",
        b"pair: \x00",
    ],
)
def test_a_bad_file_of_prompts_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="judge_prompt=") as caught:
        Prompts.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [".", "/nowhere", "a" * 300, "\0"])
def test_a_file_of_prompts_that_is_none_is_one_line(name: str) -> None:
    with pytest.raises(ValueError, match="judge_prompt=") as caught:
        Prompts.load(name)
    assert "\n" not in str(caught.value)


def test_a_large_file_of_prompts_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text("system: " + "x" * 2_000_000)
    with pytest.raises(ValueError, match="larger than 1 MB"):
        Prompts.load(path)
