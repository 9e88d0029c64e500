# SPDX-License-Identifier: Apache-2.0
"""What a run has to have before it can judge: settings, key, endpoint, prompts, reference answers.

All of it is looked at before the first answer is generated.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from compressors.errors import SettingsError
from lmkick_plugin.judge.llmkick_original import PROMPTS
from lmkick_plugin.judge.probe import probe
from lmkick_plugin.judge.prompts import Prompts
from lmkick_plugin.judge.references import Reference, Turns, load_answers, read_reference
from lmkick_plugin.judge.settings import JudgeSettings

__all__ = ["JudgePlan", "match_references"]

_LOGGER = logging.getLogger(__name__)
_Key = TypeVar("_Key", bound=Hashable)
_MOST_NAMES = 5


@dataclass(frozen=True, slots=True)
class JudgePlan:
    """The judge of a run and what answers are compared with.

    Attributes:
        settings: The judge's.
        reference: What answers are compared with; None to judge them alone.
    """

    settings: JudgeSettings
    reference: Reference | None

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> JudgePlan | None:
        """Gather the settings of a run.

        Args:
            metadata: A task's: ``judge_*``, of which the environment has the same names.

        Returns:
            The plan; None where no judge is configured.

        Raises:
            SettingsError: A setting is wrong.
        """
        given = dict(metadata)
        if given.get("judge_prompt") == "released":
            given["judge_prompt"] = str(PROMPTS)
        settings = JudgeSettings.read(given)
        return None if settings is None else cls(settings, read_reference(settings.reference))

    @property
    def reference_model(self) -> str | None:
        """The model that is asked for answers to compare with."""
        reference = self.reference
        return reference.value if reference is not None and reference.kind == "model" else None

    @property
    def dense_in_run(self) -> bool:
        """Whether the evaluated model itself is to answer as before its compression."""
        return self.reference == Reference("dense")

    def public(self) -> dict[str, Any]:
        """What a record should say of the judge; it holds no key."""
        settings = self.settings
        return {
            "model": settings.model,
            "base_url": settings.base_url,
            "reference": settings.reference,
            "reference_base_url": settings.reference_base_url,
            "order": settings.order,
            "temperature": settings.temperature,
            "prompts": Prompts.load(settings.prompt).version,
        }

    def check(self, task: str, *, needs_reference: bool = False) -> None:
        """Look at key and endpoints.

        Args:
            task: Its name, for messages.
            needs_reference: Whether its answers are never judged alone.

        Raises:
            SettingsError: Something is missing or wrong.
        """
        settings = self.settings
        if needs_reference and self.reference is None:
            raise SettingsError(
                f"{task} compares with a reference, GPT-3.5's answers in the released code, and "
                "none is given. Give judge_reference=file:PATH or model:NAME."
            )
        asked = [("judge_model", settings.model, settings.base_url)]
        if self.reference_model is not None:
            address = settings.reference_base_url or settings.base_url
            asked.append(("judge_reference", self.reference_model, address))
        for name, model, address in asked:
            found = probe(settings, address)
            if found.problem is not None:
                raise SettingsError(
                    f"{task}: {name}={model} cannot be asked: {found.problem}. To judge later, "
                    "take the judge out and use lmkick judge on the saved answers."
                )
            if found.lacks(model):
                _say_unlisted(name, model, address)

    def references(
        self, task: str, documents: Mapping[_Key, Sequence[str]], *, turns: int
    ) -> dict[_Key, Turns]:
        """Find the answers to compare with.

        Args:
            task: Its name.
            documents: What each document may be called in a file.
            turns: How many turns an answer has.

        Returns:
            Answers by document; none for a reference model, or the evaluated one as before its
            compression: both are asked later.

        Raises:
            SettingsError: There is no such file or run, or it lacks answers.
        """
        reference = self.reference
        if reference is None or reference.kind == "model" or self.dense_in_run:
            return {}
        if reference.kind == "file":
            paths = _files(reference.value)
        else:
            paths = [_dense_samples(reference.value, task)]
        try:
            return match_references(paths, documents, turns=turns)
        except ValueError as error:
            raise SettingsError(
                f"{task}: judge_reference={self.settings.reference}: {error}"
            ) from error


@functools.lru_cache(maxsize=8)
def _say_unlisted(name: str, model: str, address: str | None) -> None:
    where = address or "the endpoint"
    _LOGGER.warning("%s=%s is not among the models that %s lists.", name, model, where)


def _dense_samples(spec: str, task: str) -> Path:
    """The samples file of the dense model's run."""
    from lmkick_plugin.results.results_file import ResultsError
    from lmkick_plugin.results.runs import load_run

    path = Path(spec).expanduser()
    if path.is_file() and path.name.endswith((".jsonl", ".jsonl.gz")):
        return path
    try:
        run = load_run(str(path))
    except ResultsError as error:
        raise SettingsError(f"judge_reference=dense:{spec}: {error}") from error
    if task not in run.tasks:
        raise SettingsError(
            f"judge_reference=dense:{spec}: that run has no {task}, only {', '.join(run.tasks)}."
        )
    found = run.tasks[task].samples_path(task)
    if not found.is_file():
        raise SettingsError(
            f"judge_reference=dense:{spec}: {found} is missing. Run the dense model again with "
            "--log_samples."
        )
    return found


def _files(value: str) -> list[Path]:
    """The files of answers, joined by a plus sign, as for tasks whose documents differ."""
    whole = Path(value).expanduser()
    return [whole] if whole.exists() else [Path(part).expanduser() for part in value.split("+")]


@functools.lru_cache(maxsize=8)
def _answers(path: Path, stamp: tuple[int, int]) -> dict[str, Turns]:  # noqa: ARG001
    return load_answers(path)


def match_references(
    paths: Sequence[Path], documents: Mapping[_Key, Sequence[str]], *, turns: int
) -> dict[_Key, Turns]:
    """Take the answers to some documents out of files.

    Args:
        paths: JSON Lines of answers.
        documents: What each document may be called in it.
        turns: How many turns an answer has.

    Returns:
        Answers by document.

    Raises:
        SettingsError: A file cannot be read, or they lack answers or turns.
    """
    answers: dict[str, Turns] = {}
    for path in paths:
        state = path.stat() if path.is_file() else None
        stamp = (0, 0) if state is None else (state.st_mtime_ns, state.st_size)
        answers |= _answers(path, stamp)
    where = " + ".join(map(str, paths))
    found: dict[_Key, Turns] = {}
    missing: list[str] = []
    for key, names in documents.items():
        answer = next((answers[name] for name in names if name in answers), None)
        if answer is None:
            missing.append(names[0])
        elif len(answer) != turns:
            raise SettingsError(
                f"{where}: the answer to {names[0]} has {len(answer)} turns; {turns} are needed."
            )
        else:
            found[key] = answer
    if missing:
        named = ", ".join(missing[:_MOST_NAMES]) + (" ..." if len(missing) > _MOST_NAMES else "")
        raise SettingsError(
            f"{where} has no answer to {len(missing)} of {len(documents)} documents ({named}). "
            "Answers are found by question_id, id or doc_hash."
        )
    return found
