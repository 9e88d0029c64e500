# SPDX-License-Identifier: Apache-2.0
"""Instruction tasks scored against one reference answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.task import ConfigurableTask

from compressors.errors import SettingsError
from lmkick_plugin.data.sources import DATA_DIR_VARIABLE, data_directory
from lmkick_plugin.inference.loaded_models import calibration_folders
from lmkick_plugin.metrics.answers import exact_match, f1
from lmkick_plugin.metrics.generation import rouge

__all__ = ["InstructionTask", "score_instruction"]


class InstructionTask(ConfigurableTask):  # type: ignore[misc]  # lm_eval has no type information
    """As lm-eval's task; without a chat template, two newlines end a prompt."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def build_all_requests(self, **options: Any) -> None:
        """As in lm-eval; before the first forward pass, calibration and scored data are checked.

        Raises:
            SettingsError: The model was calibrated with rows of another copy of the data.
        """
        self._require_one_copy()
        super().build_all_requests(**options)

    def _require_one_copy(self) -> None:
        # Which rows are scored goes by their number: of two copies, one's scored rows may be among
        # the other's calibration text.
        source = f"task:{self.task_name.removeprefix('kick_')}"
        own = _place((self.config.metadata or {}).get("data_dir"))
        for folder in calibration_folders(source):
            other = _place(folder)
            if other != own:
                raise SettingsError(
                    f"{self.task_name} reads {own or 'the Hub'}, but calibration={source} read "
                    f"{other or 'the Hub'}: scored items may be among the calibration text. Give "
                    "both one data directory (data_dir=DIR in --model_args, or "
                    f"{DATA_DIR_VARIABLE}=DIR)."
                )

    def construct_requests(self, doc: dict[str, Any], ctx: str, **options: Any) -> Any:
        """The request for one answer."""
        if not options.get("apply_chat_template"):
            ctx += "\n\n"
        return super().construct_requests(doc, ctx, **options)


def _place(folder: str | None) -> Path | None:
    """Data directory in use; None for the Hub."""
    found = data_directory(folder)
    return None if found is None else found.resolve()


def score_instruction(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Score an answer against ``doc["output"]``.

    Args:
        doc: ``output`` is the reference.
        results: The whole answer.

    Returns:
        ``exact_match`` and token ``f1`` after TriviaQA's normalisation, and ``rouge1``, the F1 of
        shared stems; 0 for an answer that is to be empty.
    """
    said, gold = results[0], doc["output"]
    return {
        "exact_match": exact_match(said, [gold]),
        "f1": f1(said, [gold]),
        "rouge1": rouge(said, gold)["rouge1"],
    }
