# SPDX-License-Identifier: Apache-2.0
"""Base of tasks whose requests only ``--model kick`` serves.

They need ``--model kick``; with another model they stop before the first forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.config.task import TaskConfig
from lm_eval.filters import build_filter_ensemble

__all__ = ["KickTask"]


class KickTask(Task):  # type: ignore[misc]  # lm_eval has no type information
    """Task on its own documents, with requests only ``--model kick`` serves.

    Subclasses set ``OUTPUT_TYPE``, the type of their requests.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        # Not Task.__init__: it loads a data set of the Hub by name.
        settings = {key: value for key, value in config.items() if key != "class"}
        self._config = TaskConfig(**{**settings, "output_type": self.OUTPUT_TYPE})
        self._filters = [build_filter_ensemble("none", [["take_first", None]])]
        self._instances: list[Instance] | None = None
        self.metadata: dict[str, Any] = self._config.metadata or {}
        self.VERSION = self.metadata.get("version")

    def has_training_docs(self) -> bool:
        """No: there are no examples."""
        return False

    def has_validation_docs(self) -> bool:
        """No."""
        return False

    def has_test_docs(self) -> bool:
        """Yes: all documents."""
        return True
