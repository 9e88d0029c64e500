# SPDX-License-Identifier: Apache-2.0
"""Checks before a run that judges: settings, key, endpoint, prompts, reference answers.

An endpoint is asked for its list of models: that costs nothing, and shows a wrong key or address.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from compressors.errors import SettingsError
from lmkick_plugin.judge.endpoint import missing_requirement, open_client
from lmkick_plugin.judge.endpoint_errors import listing_fault
from lmkick_plugin.judge.limits import Budget, Limits
from lmkick_plugin.judge.llmkick_original import PROMPTS
from lmkick_plugin.judge.prompts import Prompts
from lmkick_plugin.judge.references import Reference, Turns, load_answers, read_reference
from lmkick_plugin.judge.reply_store import ReplyStore, StoreError
from lmkick_plugin.judge.rubric import Rubric
from lmkick_plugin.judge.settings import JudgeSettings, api_key, endpoint_address

__all__ = ["Endpoint", "JudgePlan", "check_metadata", "match_references"]

_LOGGER = logging.getLogger(__name__)
_Key = TypeVar("_Key", bound=Hashable)
_MOST_NAMES = 5
_PROBE_SECONDS = 15.0
_REFUSALS = (401, 403)


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Check the settings of a judge for any tasks: they end in results files.

    Args:
        metadata: A run's ``--metadata``.

    Raises:
        SettingsError: A setting is unknown, wrong or a key, or what judging needs is missing.
    """
    plan = JudgePlan.read(metadata)
    if plan is not None:
        api_key()
    if plan is not None and metadata.get("judge_model"):
        Prompts.load(plan.settings.prompt)
        missing = missing_requirement(plan.settings.base_url)
        if missing is not None:
            raise SettingsError(f"judge_model={plan.settings.model} cannot be asked: {missing}.")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model that a run will query, and what its endpoint reports.

    Attributes:
        name: The setting that names the model.
        model: The model.
        address: The endpoint.
        problem: Why nothing can be asked there; None where nothing speaks against it.
        models: The models that it lists; None where it lists none (that is optional).
    """

    name: str
    model: str
    address: str
    problem: str | None
    models: tuple[str, ...] | None = None

    @property
    def lists_another(self) -> bool:
        """Whether there is a list of models, and the one to be asked is not on it."""
        return bool(self.models) and self.model not in (self.models or ())


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

    def metrics(self, rubric: Rubric, categories: Iterable[str]) -> dict[str, bool | None]:
        """The metrics of a task, as :meth:`Rubric.names` has them."""
        compared = self.reference is not None
        both_orders = self.settings.order == "both"
        return rubric.names(categories, compared=compared, both_orders=both_orders)

    def public(self) -> dict[str, Any]:
        """The judge's entry in a record, without a key."""
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
        """Look at prompts, reply store, key and endpoints.

        Args:
            task: Its name, for messages.
            needs_reference: Whether its answers are never judged alone.

        Raises:
            SettingsError: Something is missing or wrong.
        """
        if needs_reference and self.reference is None:
            raise SettingsError(
                f"{task} compares with a reference, GPT-3.5's answers in the released code, and "
                "none is given. Give judge_reference=file:PATH or model:NAME."
            )
        Prompts.load(self.settings.prompt)
        try:
            problem = ReplyStore(self.settings.store_path).check()
        except StoreError as error:
            raise SettingsError(f"{task}: {error}") from error
        if problem is not None:
            _say_read_only(problem)
        for endpoint in self.endpoints():
            name, model = endpoint.name, endpoint.model
            if endpoint.problem is not None:
                raise SettingsError(
                    f"{task}: {name}={model} cannot be asked: {endpoint.problem}. To judge later, "
                    "take the judge out and use lmkick judge on the saved answers."
                )
            if endpoint.lists_another:
                _say_unlisted(name, model, endpoint.address)

    def endpoints(self) -> list[Endpoint]:
        """Look at the endpoints of judge and reference model; asks no model anything."""
        settings = self.settings
        asked = [("judge_model", settings.model, settings.base_url)]
        if self.reference_model is not None:
            base_url = settings.reference_base_url or settings.base_url
            asked.append(("judge_reference", self.reference_model, base_url))
        found = []
        for name, model, base_url in asked:
            problem, models = _list_models(settings, base_url)
            if problem is not None:
                _list_models.cache_clear()
            address = base_url if problem else endpoint_address(base_url)
            found.append(Endpoint(name, model, address or "the default", problem, models))
        return found

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
def _say_unlisted(name: str, model: str, address: str) -> None:
    _LOGGER.warning("%s=%s is not among the models that %s lists.", name, model, address)


@functools.lru_cache(maxsize=8)
def _say_read_only(problem: str) -> None:
    _LOGGER.warning("%s Until then only the replies in it count.", problem)


@functools.lru_cache(maxsize=8)
def _list_models(
    settings: JudgeSettings, base_url: str | None
) -> tuple[str | None, tuple[str, ...] | None]:
    """Why nothing can be asked at an endpoint, or None, and the models that it lists."""
    missing = missing_requirement(base_url)
    if missing is not None:
        return missing, None
    import openai

    from lmkick_plugin.judge.http_client import fault_of

    address = endpoint_address(base_url)
    quick = replace(
        settings,
        timeout=min(_PROBE_SECONDS, settings.timeout),
        backoff=min(1.0, settings.backoff),
        max_wait=min(2.0, settings.max_wait),
        give_up_after=2,
    )
    limits = Limits(quick, Budget(8), secret=api_key())
    try:
        with open_client(limits, address, listing_fault, retries=1) as client:
            listed = getattr(client.models.list(), "data", None)
    except (ValueError, TypeError, AttributeError, RecursionError):  # JSON of another form
        return None, None
    except openai.OpenAIError as error:
        fault = fault_of(error)
        unanswered = fault.status is None and fault.lasting != "request"
        if unanswered or fault.status in _REFUSALS:
            return f"{address}: {fault.reason}", None
        return None, None
    names = [getattr(model, "id", None) for model in listed] if isinstance(listed, list) else []
    return None, tuple(name for name in names if isinstance(name, str)) or None


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
