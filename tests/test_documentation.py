# SPDX-License-Identifier: Apache-2.0
"""What the documentation names exists: arguments, tasks, commands, options, files, metrics."""

from __future__ import annotations

import argparse
import importlib
import itertools
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lmkick_plugin.cli import COMMANDS, main
from lmkick_plugin.recipe.argument_table import ARGUMENTS
from lmkick_plugin.recipe.arguments import parse_arguments

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = sorted(
    page
    for page in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("*/*.md"), *REPOSITORY.glob("*/*/*.md")]
    if not any(part.startswith(".") for part in page.relative_to(REPOSITORY).parts)
)
COMPRESS = (REPOSITORY / "docs" / "compress.md").read_text(encoding="utf-8")
TASKS = (REPOSITORY / "docs" / "tasks.md").read_text(encoding="utf-8")


def commands(page: Path) -> list[list[str]]:
    """The shell commands of a page's bash blocks, split into words."""
    text = page.read_text(encoding="utf-8")
    found = []
    for block in re.findall(r"^```bash\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                found.append(words)
    return found


def option(words: list[str], name: str) -> str | None:
    return words[words.index(name) + 1] if name in words else None


LINES = [
    (f"{page.relative_to(REPOSITORY)}-{number}", words)
    for page in PAGES
    for number, words in enumerate(commands(page))
]
OURS = [pytest.param(words, id=name) for name, words in LINES if words[0] == "lmkick"]
RUNS = [
    pytest.param(words, id=name)
    for name, words in LINES
    if words[0] in ("lm_eval", "lmkick") and "--model_args" in words
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("words", OURS)
def test_commands_exist(words: list[str]) -> None:
    assert words[1] in COMMANDS or words[1].startswith("-")


def test_there_are_commands_to_check() -> None:
    assert len(OURS) >= 15
    assert len(RUNS) >= 3


@pytest.mark.parametrize("words", RUNS)
def test_model_arguments_are_taken(words: list[str]) -> None:
    given = dict(part.split("=", 1) for part in (option(words, "--model_args") or "").split(","))
    given.pop("data_dir", None)
    _, passed = parse_arguments(given)
    assert set(passed) <= {"pretrained", "dtype", "device", "batch_size", "parallelize"}


def test_the_table_of_arguments_is_complete() -> None:
    table = COMPRESS[COMPRESS.index("| argument |") : COMPRESS.index("- `lmkick run`")]
    named = {
        name
        for line in table.splitlines()[2:]
        if line.startswith("|")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert named == set(ARGUMENTS) | {"reference"}


def test_the_tables_of_tasks_are_complete(task_manager: TaskManager) -> None:
    leaves = ("mmlu_kick_", "mmlu_llmkick_")
    known = {name for name in task_manager.all_tasks if not name.startswith(leaves)}
    named = set(re.findall(r"`(kick(?:only)?_\w+)`", TASKS))
    named |= {f"kick_summarization_{size}" for size in ("small", "medium", "large")}
    assert {name for name in known if name.startswith(("kick_", "kickonly_"))} == named


def test_the_python_example_runs(tmp_path: Path) -> None:
    import torch

    from tests.conftest import make_tiny_llama

    (example,) = re.findall(r"^```python\n(.*?)^```", COMPRESS, flags=re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {
        "model": make_tiny_llama(),
        "token_ids": torch.randint(0, 128, (4, 32), generator=torch.Generator().manual_seed(0)),
    }
    exec(example.replace('"cuda"', '"cpu"'), names)
    assert names["report"].sparsity == 0.5


def test_the_page_s_method_keeps_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from compressors import Wanda
    from tests.compressors.method_cases import PATTERNS, make_inputs, make_stats, make_weight
    from tests.compressors.methods import test_contract

    page = (REPOSITORY / "docs" / "add_method.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "method_of_the_page.py").write_text(example, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(test_contract, "compared_together", lambda _, mask: mask.unbind(0))
    kept = 0
    for pattern in PATTERNS:
        method = importlib.import_module("method_of_the_page").Wanda(pattern=pattern)
        assert type(method) is not Wanda
        stats = make_stats(method, make_inputs())
        expected = Wanda(pattern=pattern).compress(make_weight(), stats)
        assert torch.equal(method.compress(make_weight(), stats).weight, expected.weight)
        for test in vars(test_contract).values():
            marks = [m for m in getattr(test, "pytestmark", ()) if m.name == "parametrize"]
            given = {mark.args[0]: mark.args[1] for mark in marks}
            if Wanda(pattern=pattern) in given.get("method", ()):
                for values in itertools.product(*({**given, "method": [method]}.values())):
                    test(**dict(zip(given, values, strict=True)))
                    kept += 1
    assert kept >= 60


@pytest.mark.parametrize("beside", [False, True])
def test_the_page_s_task_runs(tmp_path: Path, beside: bool) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    page = (REPOSITORY / "docs" / "add_task.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"^```(yaml|python)\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE))
    name, module = "lmkick_plugin.data.capitals", tmp_path / "lmkick_plugin/data/capitals.py"
    if beside:  # lm-eval looks beside the YAML first, so that both are found in this folder
        blocks["yaml"] = blocks["yaml"].replace(name, "capitals")
        module = tmp_path / "capitals.py"
    (row,) = re.findall(r'`(\{"question": .*?\})`', page)
    data = tmp_path / "data" / "capitals" / "test.jsonl"
    for path, text in (
        (module, blocks["python"]),
        (tmp_path / "kick_capitals.yaml", blocks["yaml"]),
        (data, f"{row}\n" * 3),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    results = simple_evaluate(
        model="kick",
        model_args="pretrained=kick-mini",
        tasks=["kick_capitals"],
        task_manager=TaskManager(
            include_path=str(tmp_path),
            include_defaults=False,
            metadata={"data_dir": str(data.parent.parent)},
        ),
        bootstrap_iters=0,
    )
    assert results is not None
    scores = results["results"]["kick_capitals"]
    assert {"contains,none", "exact_match,none", "f1,none"} <= set(scores)
    asked = results["samples"]["kick_capitals"]
    assert len(asked) == 3
    prompt = asked[0]["arguments"][0][0]
    assert prompt.endswith("question: What is the capital of Peru?\nThe answer is")
    assert scores["contains,none"] == sum(item["contains"] for item in asked) / 3
    assert results["configs"]["kick_capitals"]["metadata"]["headline"] == "contains"


def test_the_tutorials_are_the_examples() -> None:
    """A formatter once took the snippets for Python, and the site showed what it made of them."""
    page = (REPOSITORY / "docs" / "tutorials.md").read_text(encoding="utf-8")
    for example in (REPOSITORY / "examples").glob("*.py"):
        assert f'\n--8<-- "examples/{example.name}"\n' in page


def test_every_command_describes_itself(capsys: pytest.CaptureFixture[str]) -> None:
    ours = set(COMMANDS) - {"run", "ls", "validate"}  # those are lm-eval's own
    for name in sorted(ours):
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        assert f"lmkick {name}" in capsys.readouterr().out


def test_options_of_ours_are_known() -> None:
    """A command line of the documentation that starts with one of our commands parses."""
    from lmkick_plugin.cli import compare, export, layers, report

    ours = {"compare": compare, "layers": layers, "report": report, "export": export}
    checked = 0
    for _, words in LINES:
        if words[0] == "lmkick" and words[1] in ours:
            parser = argparse.ArgumentParser(exit_on_error=False)
            ours[words[1]].add_arguments(parser)
            parser.parse_args(words[2:])
            checked += 1
    assert checked >= 3
