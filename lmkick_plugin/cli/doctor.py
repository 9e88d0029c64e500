# SPDX-License-Identifier: Apache-2.0
"""``lmkick doctor``: check versions, device, data and endpoint before a run."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lmkick_plugin.cli.judge import add_judge_options, given_settings
from lmkick_plugin.terminal import emit, plain

if TYPE_CHECKING:
    from lmkick_plugin.data.sources import Source
    from lmkick_plugin.judge.plan import Endpoint

__all__ = ["Finding", "add_arguments", "examine", "main"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check.

    Attributes:
        status: ``ok``, ``note`` (a run can do without) or ``FAIL``.
        subject: What was looked at.
        text: What was found, and what to do where that is not well.
    """

    status: Literal["ok", "note", "FAIL"]
    subject: str
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments.

    Args:
        parser: The parser of ``lmkick doctor``.
    """
    parser.description = (
        "Look at versions, device, data and judge. The judge is asked one tiny question, which an "
        "endpoint may charge for; --free leaves that out."
    )
    parser.add_argument("--data_dir", help="data directory (default: LMKICK_DATA_DIR)")
    parser.add_argument("--device", help="device that has to be there, such as cuda or cuda:1")
    parser.add_argument("--tasks", default="", help="load these tasks (a,b) to check their data")
    parser.add_argument("--free", action="store_true", help="ask the judge nothing")
    add_judge_options(parser)


def main(args: argparse.Namespace) -> int:
    """Run the command.

    Args:
        args: As declared by :func:`add_arguments`.

    Returns:
        Exit status: 0, or 1 where something a run needs is missing or wrong.
    """
    failed = 0
    for finding in examine(args):
        emit(f"{finding.status:<5} {finding.subject:<12} {plain(finding.text)}")
        failed += finding.status == "FAIL"
    emit(f"\n{failed} failed." if failed else "\nNothing is missing.")
    return 1 if failed else 0


def examine(args: argparse.Namespace) -> Iterator[Finding]:
    """Look at one thing after the other.

    Args:
        args: As declared by :func:`add_arguments`.

    Yields:
        Findings, as they are made.
    """
    parts: list[Callable[[argparse.Namespace], Iterator[Finding]]] = [
        _versions,
        _registration,
        _device,
        _data,
        _judge,
    ]
    for part in parts:
        try:
            yield from part(args)
        except Exception as error:  # noqa: BLE001 - report any fault, and check the rest
            name = part.__name__.removeprefix("_")
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            yield Finding("FAIL", name, f"{kind}{error}")


def _versions(args: argparse.Namespace) -> Iterator[Finding]:  # noqa: ARG001
    from packaging.requirements import Requirement

    good = []
    for line in metadata.requires("lmkick") or ():
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = requirement.name
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding("FAIL", "versions", f"{name} is missing: pip install '{requirement}'")
            continue
        if requirement.specifier.contains(version, prereleases=True):
            good.append(f"{name} {version}")
        else:
            yield Finding(
                "FAIL",
                "versions",
                f"{name} {version} is installed, {requirement.specifier} is needed: "
                f"pip install '{requirement}'",
            )
    yield Finding("ok", "versions", ", ".join(good))


def _registration(args: argparse.Namespace) -> Iterator[Finding]:  # noqa: ARG001
    from lm_eval.api.registry import get_model
    from lm_eval.tasks import TaskManager

    from lmkick_plugin.registration import TASK_FOLDER, register

    register()
    get_model("kick")
    manager = TaskManager(include_path=[TASK_FOLDER], include_defaults=False)
    count = len(manager.all_tasks)
    yield Finding("ok", "lm_eval", f"knows the model kick and {count} tasks and groups of ours")
    if util.find_spec("lmkick_autoload") is None:
        yield Finding(
            "note",
            "lm_eval",
            "plain lm_eval will not find us in this installation: use lmkick run, or pip install",
        )


def _device(args: argparse.Namespace) -> Iterator[Finding]:
    import torch

    from lmkick_plugin.record.build import device_name

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for number in range(count):
        free, total = torch.cuda.mem_get_info(number)
        name = device_name(torch.device("cuda", number))
        text = f"cuda:{number}, {name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        yield Finding("ok", "device", text)
    if not count:
        text = f"no GPU; {device_name(torch.device('cpu'))}: {_faster_dtype()}"
        yield Finding("note", "device", text)
    if args.device:
        from lmkick_plugin.loading.checks import check_device
        from lmkick_plugin.recipe.readers import read_device

        check_device(read_device("--device", args.device))
        yield Finding("ok", "device", f"{args.device} can be used")


def _faster_dtype() -> str:
    """Rates of a 256 x 1024 x 1024 product by dtype, as in reading a prompt."""
    import torch
    from torch.utils.benchmark import Timer

    rates: dict[str, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        inputs, weight = (torch.ones(size, 1024, dtype=dtype) for size in (256, 1024))
        timer = Timer(
            "linear(inputs, weight)",
            globals={"linear": torch.nn.functional.linear, "inputs": inputs, "weight": weight},
            num_threads=torch.get_num_threads(),
        )
        seconds = timer.blocked_autorange(min_run_time=0.1).median
        rates[str(dtype).removeprefix("torch.")] = 2 * inputs.numel() * len(weight) / seconds / 1e9
    measured = ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in rates.items())
    slower, faster = sorted(rates, key=lambda name: rates[name])
    if rates[faster] < 1.1 * rates[slower]:
        return measured
    return f"{measured}; dtype={faster} reads prompts faster"


def _data(args: argparse.Namespace) -> Iterator[Finding]:
    from lmkick_plugin.data.sources import data_directory
    from lmkick_plugin.preflight.tasks import check_data_dir, check_tasks
    from lmkick_plugin.registration import OUR_PREFIXES

    check_data_dir(args.data_dir)
    folder = data_directory(args.data_dir)
    yield from _hub_data() if folder is None else _local_data(folder)
    names = [name.strip() for name in args.tasks.split(",") if name.strip()]
    ours = {name for name in names if name.startswith(OUR_PREFIXES)}
    if others := [name for name in names if name not in ours]:
        yield Finding("note", "tasks", f"{', '.join(others)}: not tasks of lmkick, not checked")
    names = [name for name in names if name in ours]
    if names:
        metadata = {} if folder is None else {"data_dir": str(folder)}
        check_tasks(names, task_metadata=metadata, judged=False)
        yield Finding("ok", "tasks", f"{', '.join(names)}: all rows can be read")


def _sources() -> list[Source]:
    """The files that tasks read."""
    from lmkick_plugin.data import (
        freebaseqa,
        instructions,
        mmlu,
        open_questions,
        summarization,
        triviaqa,
        wikitext,
    )

    return [
        freebaseqa.EVAL, freebaseqa.TRAIN, mmlu.TEST, mmlu.DEV, triviaqa.CLOSED, triviaqa.OPEN,
        summarization.TEST, open_questions.VICUNA_BENCH, open_questions.MT_BENCH, wikitext.TEST,
        instructions.ALPACA, instructions.UNNATURAL,
    ]  # fmt: skip


def _local_data(folder: Path) -> Iterator[Finding]:
    from lmkick_plugin.data.sources import DataError, locate

    sources, missing = _sources(), []
    for source in sources:
        try:
            locate(source, folder)
        except DataError:
            missing.append(source.file)
    if len(missing) == len(sources):
        yield Finding("FAIL", "data", f"{folder} holds none of the files that tasks read, such as "
                      f"{missing[0]}")  # fmt: skip
        return
    yield Finding("ok", "data", f"{folder}: {len(sources) - len(missing)} files of tasks")
    if missing:
        lacking = f"{folder} lacks {', '.join(missing)}: tasks that read them will not run"
        yield Finding("note", "data", lacking)


def _hub_data() -> Iterator[Finding]:
    """Without a data directory: is the Hub there, or at least its cache?"""
    problem = _hub_problem()
    if problem is None:
        text = "no data directory: rows come from the Hugging Face Hub and GitHub"
        yield Finding("ok", "data", text)
        return
    wanted = {
        repository
        for source in _sources()
        if (repository := getattr(source.remote, "repository", None)) is not None
    }
    cached = sorted(wanted & _cached_data_sets())
    remedy = "Give --data_dir FOLDER, or run once with a network"
    if cached:
        text = f"{problem}: only what is in the cache can be read ({', '.join(cached)}). {remedy}"
        yield Finding("note", "data", text)
    else:
        text = f"{problem}, and the cache holds none of the tasks' data. {remedy}"
        yield Finding("FAIL", "data", text)


def _hub_problem() -> str | None:
    """Why the Hub cannot be asked; None where it can."""
    from huggingface_hub import constants, get_session

    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        if os.environ.get(name, "0").lower() not in ("", "0", "false", "no", "off"):
            return f"{name} is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as error:  # noqa: BLE001 - the client raises anything
        return f"{constants.ENDPOINT} cannot be reached ({type(error).__name__})"
    return None


def _cached_data_sets() -> set[str]:
    from datasets import config
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    found = set()
    with suppress(CacheNotFound):
        found = {each.repo_id for each in scan_cache_dir().repos if each.repo_type == "dataset"}
    prepared = Path(config.HF_DATASETS_CACHE)
    if prepared.is_dir():
        found |= {path.name.replace("___", "/") for path in prepared.iterdir()}
    return found


def _judge(args: argparse.Namespace) -> Iterator[Finding]:
    from lmkick_plugin.judge.plan import JudgePlan
    from lmkick_plugin.judge.prompts import Prompts
    from lmkick_plugin.judge.settings import KEY_VARIABLES, api_key

    plan = JudgePlan.read(given_settings(args))
    if plan is None:
        yield Finding("note", "judge", "none configured: judge_model and LMKICK_JUDGE_MODEL unset")
        return
    found = next((name for name in KEY_VARIABLES if os.environ.get(name)), None)
    if api_key() is None:
        yield Finding("note", "key", f"{' and '.join(KEY_VARIABLES)} are unset")
    else:
        yield Finding("ok", "key", f"from {found}")
    Prompts.load(plan.settings.prompt)
    reachable = True
    for endpoint in plan.endpoints():
        finding = _endpoint(endpoint)
        reachable &= finding.status != "FAIL"
        yield finding
    if plan.reference is not None and plan.reference.kind == "file":
        plan.references("judge", {}, turns=1)
        yield Finding("ok", "reference", f"{plan.reference.value} holds answers")
    yield from _store(plan.settings.store_path)
    if reachable and not args.free:
        yield from _ask(plan.settings, plan.reference_model)


def _endpoint(endpoint: Endpoint) -> Finding:
    asked = f"{endpoint.name}={endpoint.model}"
    if endpoint.problem is not None:
        return Finding("FAIL", "endpoint", endpoint.problem)
    if endpoint.lists_another:
        text = f"{endpoint.address} answers, but does not list {asked}"
        return Finding("note", "endpoint", text)
    listed = "lists" if endpoint.models else "answers, and lists no models: nothing known of"
    return Finding("ok", "endpoint", f"{endpoint.address} {listed} {asked}")


def _store(path: Path) -> Iterator[Finding]:
    from lmkick_plugin.judge.reply_store import ReplyStore, StoreError

    store = ReplyStore(path)
    try:
        store.claim("doctor", 1.0)
        store.release("doctor")
    except StoreError as error:
        yield Finding("FAIL", "store", str(error))
    else:
        yield Finding("ok", "store", f"replies are kept in {path}")
    finally:
        store.close()


def _ask(settings: Any, reference_model: str | None) -> Iterator[Finding]:
    """One question to each model, past the store."""
    from lmkick_plugin.judge.items import Item
    from lmkick_plugin.judge.judge import Judge

    with tempfile.TemporaryDirectory(prefix="lmkick_doctor_") as folder:
        once = {"retries": 1, "max_requests": 6, "store": str(Path(folder) / "replies.sqlite3")}
        judge = Judge(replace(settings, **once))
        (verdict,) = judge.grade([Item(question="What is 2 + 2?", answer="4")])
        name = f"judge_model={settings.model}"
        if verdict.scores is None:
            yield Finding("FAIL", "judge", f"{name} gave no scores: {verdict.reason}")
        else:
            yield Finding(
                "ok", "judge", f"{name} scored a right answer {verdict.scores['score']:g}"
            )
        if reference_model is not None:
            (outcome,) = judge.answer(
                ["Say yes."], model=reference_model, base_url=settings.reference_base_url
            )
            name = f"judge_reference=model:{reference_model}"
            if outcome.reply is None:
                yield Finding("FAIL", "reference", f"{name} did not answer: {outcome.reason}")
            else:
                yield Finding("ok", "reference", f"{name} answers")
