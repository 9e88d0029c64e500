# SPDX-License-Identifier: Apache-2.0
"""Every task can be found and loaded, once, quietly, and documents what it does."""

from __future__ import annotations

import builtins
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from task_yaml.kick_mmlu import _generate_configs as generate
from tests.task_yaml.conftest import SUBJECTS, TASK_FOLDER, TASKS, tiny_files, write_data

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

SUBJECTS_OF = {"kick_": "mmlu_kick_", "llmkick_": "mmlu_llmkick_"}
NAMES = [name for name in TASKS if name.startswith(("kick_", "kickonly_", "llmkick_"))]


def leaves_of(prefix: str) -> set[str]:
    """Tasks of a prefix, by their YAML files."""
    return {name for name in TASKS if name.startswith((prefix, SUBJECTS_OF.get(prefix, prefix)))}


def test_every_file_is_found() -> None:
    assert {"kick_freebaseqa", "kick_summarization_small", "kickonly_perplexity"} <= set(NAMES)
    assert len(leaves_of("kick_")) >= 10 + len(SUBJECTS)


@pytest.mark.parametrize(
    ("pattern", "leaves"),
    [
        ("kick_*", leaves_of("kick_")),
        ("kick", leaves_of("kick_")),
        ("llmkick_*", leaves_of("llmkick_")),
        ("kickonly_*", leaves_of("kickonly_")),
        ("kickonly", leaves_of("kickonly_")),
    ],
)
def test_patterns_load_each_task_once(
    tiny_manager: TaskManager, pattern: str, leaves: set[str]
) -> None:
    # lm-eval raises "Duplicate task" where a pattern meets a group and its members.
    loaded = tiny_manager.load(tiny_manager.match_tasks([pattern]))
    assert set(loaded["tasks"]) == leaves


def test_mmlu_groups_are_the_four_categories(tiny_manager: TaskManager) -> None:
    loaded = tiny_manager.load(["kick_mmlu"])
    assert [len(loaded["groups"][f"mmlu_kick_{name}"]) for name in generate.CATEGORIES] == [
        19,
        13,
        12,
        13,
    ]
    assert loaded["group_map"]["kick_mmlu"] == [f"mmlu_kick_{name}" for name in generate.CATEGORIES]


def test_categories_are_those_of_lm_eval() -> None:
    import importlib.util
    import re

    spec = importlib.util.find_spec("lm_eval.tasks")
    assert spec is not None
    folder = Path(next(iter(spec.submodule_search_locations or []))) / "mmlu" / "default"
    for category, subjects in generate.CATEGORIES.items():
        for subject in subjects:
            text = (folder / f"mmlu_{subject}.yaml").read_text(encoding="utf-8")
            assert re.search(r'"tag": "mmlu_(\w+)_tasks"', text)[1] == category


def test_nothing_is_said_of_each_of_57_tasks(
    tiny_manager: TaskManager, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        tiny_manager.load(["kick_mmlu"])
    assert caplog.messages == []


def test_other_peoples_tasks_keep_their_warning(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("lm_eval.api.task")
    with caplog.at_level(logging.WARNING):
        logger.warning("ruler: Custom kwargs can be passed to `--metadata` in console")
        logger.warning("kick_mmlu: something else")
    assert len(caplog.messages) == 2


def test_a_shared_file_is_read_once(
    make_manager: Callable[..., TaskManager], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path, tiny_files())
    opened: list[str] = []
    really_open = builtins.open  # which gzip calls, too

    def opening(path: Any, *args: Any, **options: Any) -> Any:
        opened.append(str(path))
        return really_open(path, *args, **options)

    monkeypatch.setattr(builtins, "open", opening)
    manager = make_manager(data_dir=str(tmp_path))
    manager.load(["kick_mmlu"])
    manager.load(["llmkick_mmlu"])
    for file in ("mmlu/test.jsonl.gz", "mmlu/dev.jsonl"):
        assert opened.count(str(tmp_path / file)) == 1


def test_a_file_that_was_replaced_is_read_again(
    make_manager: Callable[..., TaskManager], tmp_path: Path
) -> None:
    files = tiny_files()
    write_data(tmp_path, files)
    manager = make_manager(data_dir=str(tmp_path))
    before = manager.load(["kick_freebaseqa"])["tasks"]["kick_freebaseqa"]
    files["freebase_qa/eval.jsonl"].pop()
    write_data(tmp_path, files)
    after = manager.load(["kick_freebaseqa"])["tasks"]["kick_freebaseqa"]
    assert (len(before.eval_docs), len(after.eval_docs)) == (4, 3)


def test_generated_files_are_what_the_generator_writes() -> None:
    expected = generate.files()
    found = {
        path.relative_to(TASK_FOLDER).as_posix(): path.read_text(encoding="utf-8")
        for folder in ("kick_mmlu", "llmkick_mmlu")
        for path in (TASK_FOLDER / folder).rglob("*.yaml")
    }
    assert found == expected


def test_generator_writes_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "__file__", str(tmp_path / "kick_mmlu" / "generate.py"))
    generate.main()
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.yaml")}
    assert written == set(generate.files())
    assert len(written) == 2 * (57 + 5)


@pytest.mark.parametrize("name", sorted([*NAMES, "mmlu_kick_anatomy", "mmlu_llmkick_virology"]))
def test_readme_numbers_the_differences_of_the_metadata(
    tiny_manager: TaskManager, name: str
) -> None:
    entry = tiny_manager.task_index[name]
    folder = entry.yaml_path.parent
    readme = (folder if folder.name != "subjects" else folder.parent) / "README.md"
    text = readme.read_text(encoding="utf-8")
    differences = tiny_manager.load([name])["tasks"][name].config.metadata["differences"]
    assert [line.split(".")[0] for line in differences] == [
        str(number + 1) for number in range(len(differences))
    ]
    assert "\n".join(differences) in text


def test_every_task_has_a_version(tiny_manager: TaskManager) -> None:
    tasks = tiny_manager.load(["kick", "kickonly", *tiny_manager.match_tasks(["llmkick_*"])])[
        "tasks"
    ]
    assert min(task.VERSION for task in tasks.values()) >= 1
    for name, task in tasks.items():
        folder = tiny_manager.task_index[name].yaml_path.parent
        readme = (folder if folder.name != "subjects" else folder.parent) / "README.md"
        if readme.is_file():
            newest = readme.read_text(encoding="utf-8").split("## Versions\n\n- ")[1]
            assert newest.startswith(f"{task.VERSION}: "), name
