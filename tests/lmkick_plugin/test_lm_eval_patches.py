# SPDX-License-Identifier: Apache-2.0
"""Patches of lm-eval: what they change, and what they leave alone."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

import pytest
from lm_eval import utils

from lmkick_plugin.lm_eval_patches import (
    PATCHES,
    compile_templates_once,
    drop_known_warnings,
    silence_git,
)
from lmkick_plugin.registration import OUR_PREFIXES


def test_prompts_are_the_same_and_compiled_once() -> None:
    compile_templates_once()
    before = utils.env.from_string.cache_info()
    template = "{{question.strip()}} {% if shots %}{{shots | length}}{% endif %}\n"
    documents = [{"question": f" {n} ", "shots": [n] * n} for n in range(5)]
    made = [utils.apply_template(template, doc) for doc in documents]
    fresh = utils.env.overlay()
    assert made == [type(fresh).from_string(fresh, template).render(**doc) for doc in documents]
    assert made[3] == "3 3\n"
    after = utils.env.from_string.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 4)


def test_a_second_call_changes_nothing() -> None:
    compile_templates_once()
    once = utils.env.from_string
    compile_templates_once()
    assert utils.env.from_string is once


def test_other_ways_to_call_it_are_left_alone() -> None:
    compile_templates_once()
    template = utils.env.from_string("{{number}} {{other}}", globals={"other": 2})
    assert template.render(number=1) == "1 2"


def test_only_the_known_warnings_about_our_tasks_are_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    drop_known_warnings(OUR_PREFIXES)
    drop_known_warnings(OUR_PREFIXES)
    log = logging.getLogger("lm_eval.api.task")
    about = "%s: Custom kwargs can be passed to `--metadata` in console"
    for task in ("kick_mmlu", "mmlu_kick_law", "recall_kick_say", "hellaswag"):
        log.warning(about, task)
    log.warning("kick_mmlu: something else")
    assert [record.getMessage()[:12] for record in caplog.records] == [
        "hellaswag: C",
        "kick_mmlu: s",
    ]
    assert len(log.filters) == len(set(log.filters))


def test_git_is_quiet_and_a_commit_is_still_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from lm_eval.loggers.utils import get_git_commit_hash  # as lm_eval.evaluator imports it

    silence_git()
    silence_git()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert get_git_commit_hash() is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run([*git, *command], check=True)
    found = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    assert found.stdout.startswith(get_git_commit_hash())
    assert len(get_git_commit_hash()) >= 7
    assert capfd.readouterr() == ("", "")


def test_each_patch_says_when_it_goes() -> None:
    assert all(patch.versions and patch.reason and patch.until for patch in PATCHES)
