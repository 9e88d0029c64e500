# SPDX-License-Identifier: Apache-2.0
"""Generation tasks with judged answers: summaries, answers, conversations.

Judging happens in ``apply_filters``: after all answers are there and before they are scored, once
for each process of a data-parallel run, on that process's own documents. The verdicts travel in
``filtered_resps``, so ``--log_samples`` writes the judge's replies; the scores come from
``process_results`` like all others and have their standard errors.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.utils import handle_non_serializable, hash_string

from compressors.errors import SettingsError
from lmkick_plugin.inference.loaded_models import (
    dense_problems,
    forget,
    model_of,
    require_kick_model,
)
from lmkick_plugin.judge.judge import shared_judge
from lmkick_plugin.judge.judge_documents import Subject, judge_all
from lmkick_plugin.judge.plan import JudgePlan
from lmkick_plugin.judge.rubric import rubric_of
from lmkick_plugin.judge.verdicts import Verdict
from lmkick_plugin.metrics.aggregation import mean_of_scored

__all__ = ["ConversationTask", "GenerationTask", "Judged"]

_LOGGER = logging.getLogger(__name__)


class Judged(NamedTuple):
    """A judged document in ``filtered_resps``.

    Attributes:
        answer: The model's answer, or its answers by turn.
        verdicts: JSON: a list with one verdict per turn (:meth:`Verdict.to_dict`).
    """

    answer: Any
    verdicts: str


class GenerationTask(ConfigurableTask):  # type: ignore[misc]  # lm_eval has no type information
    """A task of one generated answer per document.

    Differences to lm-eval's own kind: a prompt that no chat template wraps is followed by two
    newlines; and where a judge is configured (:class:`lmkick_plugin.judge.JudgeSettings`), the
    answers are judged and the judge's metrics reported too.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})
        rubric = rubric_of(self.task_name)
        if rubric is None:
            raise SettingsError(
                f"{self.task_name}: no rubric for this task. Set metadata.rubric in its YAML."
            )
        self._rubric = rubric
        self._share = 1
        self._references: dict[int, tuple[str, ...]] = {}
        metadata = self.config.metadata or {}
        self._plan = JudgePlan.read(metadata)
        self._categories = list(self.eval_docs["category"]) if "category" in self.features else []
        if self._plan is not None:
            self.config.metadata = {**metadata, "judge": self._plan.public()}
            for name, higher in self._judge_metrics.items():
                self._metric_fn_list[name] = None
                self._aggregation_list[name] = mean_of_scored
                self._higher_is_better[name] = higher

    @property
    def _judge_metrics(self) -> dict[str, bool | None]:
        """Whether higher is better, by metric."""
        if self._plan is None:
            return {}
        return self._plan.metrics(self._rubric, self._categories)

    @property
    def _predict_only(self) -> bool:
        return "bypass" in self._metric_fn_list

    def check_judge(self) -> None:
        """Check the judge's key, endpoint, prompts and reference; asks it nothing.

        Raises:
            SettingsError: What is wrong, and what to do.
        """
        if self._plan is not None:
            self._plan.check(self.task_name, needs_reference=self._rubric.released)
            self._plan.references(self.task_name, {}, turns=self._turns)

    def build_all_requests(self, **options: Any) -> None:
        """As in lm-eval; the judge is checked before the first forward pass.

        Raises:
            SettingsError: The judge or its reference cannot be used.
        """
        super().build_all_requests(**options)
        self._share = int(options.get("world_size") or 1)
        if "category" in self.features:  # of all processes: they have to report the same metrics
            chosen = {name: options.get(name) for name in ("limit", "samples")}
            docs_of_all = self.doc_iterator(rank=0, world_size=1, **chosen)
            self._categories = [doc["category"] for _, doc in docs_of_all]
        if self._plan is None or self._predict_only:
            return
        forget(self.task_name)
        self.check_judge()
        if self._plan.dense_in_run:
            _require_dense_answers(self.task_name)
        shared_judge(self._plan.settings, self._share).start()
        docs = {instance.doc_id: instance.doc for instance in self.instances}
        self._references = self._plan.references(
            self.task_name,
            {key: (*self._rubric.identities(doc), _doc_hash(doc)) for key, doc in docs.items()},
            turns=self._turns,
        )

    @property
    def _turns(self) -> int:
        return 2 if self._rubric.kind == "conversation" else 1

    def construct_requests(self, doc: dict[str, Any], ctx: str, **options: Any) -> Instance:
        """As in lm-eval; two newlines end a prompt without chat template."""
        if not options.get("apply_chat_template"):
            ctx += "\n\n"
        return super().construct_requests(doc, ctx, **options)

    def apply_filters(self) -> None:
        """As in lm-eval, then judge."""
        super().apply_filters()
        if self._predict_only:
            return
        if self._plan is None:
            _say_how_to_judge()
            return
        judge = shared_judge(self._plan.settings, self._share)
        said = [self._answers(instance) for instance in self.instances]
        try:
            if self._plan.dense_in_run:
                self._references = self._dense_answers(said)
            subjects = [
                Subject(instance.doc, answers, self._references.get(instance.doc_id))
                for instance, answers in zip(self.instances, said, strict=True)
            ]
        except (Exception, KeyboardInterrupt) as error:  # what took hours must reach the disk
            _LOGGER.exception("%s: no dense answers to compare with.", self.task_name)
            reason = f"no answer of the dense model: {error}"
            verdicts = [(Verdict(scores=None, reason=reason),) * len(one) for one in said]
        else:
            verdicts = judge_all(
                judge, self._rubric, subjects, reference_model=self._plan.reference_model
            )
        for instance, given in zip(self.instances, verdicts, strict=True):
            text = json.dumps([verdict.to_dict() for verdict in given], ensure_ascii=False)
            for name, answer in instance.filtered_resps.items():
                instance.filtered_resps[name] = Judged(answer, text)
        _LOGGER.info("%s: so far %s.", self.task_name, judge.summary)
        missing = sum(verdict.scores is None for given in verdicts for verdict in given)
        if missing:
            _LOGGER.warning(
                "%s: %d answers are unjudged and left out of the judge's means. Judge them later "
                "with lmkick judge RESULTS_DIR (judged answers are not asked again).",
                self.task_name,
                missing,
            )

    def _dense_answers(self, said: Sequence[tuple[str, ...]]) -> dict[int, tuple[str, ...]]:
        """Dense answers of the evaluated model."""
        model = model_of(self.task_name)
        if model is None:
            raise SettingsError(
                "the answers came from a cache, so no model is loaded that could answer as the "
                "dense one. Leave --use_cache out, or give judge_reference=dense:RESULTS."
            )
        if model.is_dense:
            return dict(zip((one.doc_id for one in self.instances), said, strict=True))
        found = model.answer_as_dense(list(self.instances))
        turns = ((one,) if isinstance(one, str) else tuple(one) for one in found)
        return dict(zip((one.doc_id for one in self.instances), turns, strict=True))

    def _answers(self, instance: Instance) -> tuple[str, ...]:
        answer = next(iter(instance.filtered_resps.values()))
        return (answer,) if isinstance(answer, str) else tuple(answer)

    def process_results(self, doc: dict[str, Any], results: Sequence[Any]) -> dict[str, Any]:
        """Score one document.

        Args:
            doc: The document.
            results: One answer, with its verdicts where it was judged.

        Returns:
            Values by metric; None where there is none to count.
        """
        if self._predict_only:
            return {"bypass": None}
        result = results[0]
        answer = result.answer if isinstance(result, Judged) else result
        turns = [answer] if isinstance(answer, str) else list(answer)
        scores: dict[str, Any] = dict(self.config.process_results(doc, turns))
        if isinstance(result, Judged) and self._plan is not None:
            verdicts = [Verdict(**row) for row in json.loads(result.verdicts)]
            own = self._rubric.metrics(doc, verdicts)
            scores |= {name: own.get(name) for name in self._judge_metrics}
        return scores


class ConversationTask(GenerationTask):
    """Multi-turn task; each prompt holds the model's own earlier answers.

    No task of lm-eval sees the model, so it is ``--model kick`` that holds the conversation: the
    requests are of type ``turns`` (:func:`lmkick_plugin.inference.conversations.answer_turns`).
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)  # as generate_until, so that --gen_kwargs arrive
        self.OUTPUT_TYPE = "turns"
        self._system: str | None = None

    def build_all_requests(self, **options: Any) -> None:
        """As for tasks of one turn.

        Raises:
            SettingsError: No ``kick`` model is loaded, or the judge cannot be used.
        """
        require_kick_model(self.task_name)
        self._system = options.get("system_instruction")
        super().build_all_requests(**options)

    def construct_requests(self, doc: dict[str, Any], ctx: str, **options: Any) -> Instance:
        """Request: the first turn as lm-eval lays it out, and the other turns."""
        templated = bool(options.get("apply_chat_template"))
        settings = {
            "turns": list(doc["turns"]),
            "system": self._system,
            "chat_template": templated,
            "generation": deepcopy(self.config.generation_kwargs),
        }
        return Instance(
            request_type=self.OUTPUT_TYPE,
            doc=doc,
            arguments=(ctx if templated else ctx + "\n\n", settings),
            idx=0,
            metadata=options["metadata"],
        )


def _require_dense_answers(task: str) -> None:
    """Refuse ``judge_reference=dense`` where no live model can answer as dense.

    Raises:
        SettingsError: There is none, or it cannot.
    """
    problems = dense_problems()
    if not problems:
        problem = "no model of --model kick is loaded"
    elif None in problems:
        return
    else:
        problem = str(problems[0])
    raise SettingsError(
        f"{task}: judge_reference=dense is not available: {problem}. Use "
        "judge_reference=dense:RESULTS (a dense run with --log_samples), or judge later with "
        "lmkick judge RESULTS_DIR --judge_reference dense."
    )


def _doc_hash(doc: Mapping[str, Any]) -> str:
    """Hash by which lm-eval's samples files name a document."""
    text = json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return str(hash_string(text))


@functools.lru_cache(maxsize=1)
def _say_how_to_judge() -> None:
    """Log once how to judge later."""
    _LOGGER.warning(
        "No judge is configured: only metrics without a judge are reported. Answers saved with "
        "--output_path and --log_samples can be judged later: lmkick judge RESULTS_DIR "
        "--judge_model NAME"
    )
