# SPDX-License-Identifier: Apache-2.0
"""Dense model shared by a sweep's cells: loaded once, restored between cells."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lmkick_plugin.loading.dense_source import DenseSource
from lmkick_plugin.record.weights import survey_weights
from lmkick_plugin.sweep.evaluate import free_memory

__all__ = ["DenseModel"]

_LOG = logging.getLogger(__name__)

# With these the model is not simply the checkpoint on one device, and is loaded for each cell.
_NOT_SHARED = (
    "parallelize", "tp_plan", "peft", "delta", "autogptq", "gptqmodel", "gguf_file",
    "quantization_config", "load_in_4bit", "load_in_8bit", "device_map",
)  # fmt: skip


class DenseModel(DenseSource):
    """A dense model that stays loaded, with its calibration text and its answers.

    Before the first compression the matrices of the decoder blocks, which are all that any method
    changes, are copied to main memory. So beside the model there is at most one copy of its
    weights, and none while only the dense model is evaluated.

    Attributes:
        loads: How often a checkpoint was read.
    """

    def __init__(self) -> None:
        self.loads = 0
        self._key: str | None = None
        self._model: Any = None
        self._originals: dict[str, Tensor] = {}
        self._sha256: str | None = None
        self._changed = False
        self._found: dict[str, Any] = {}

    def load(self, arguments: Mapping[str, Any], read: Callable[[], Any]) -> Any:
        """Dense model: the loaded one with its weights restored, or a new one.

        Args:
            arguments: What decides which model that is, and how it is loaded.
            read: Reads the checkpoint.

        Raises:
            RuntimeError: The restored weights are not the dense ones.
        """
        key = json.dumps(dict(arguments), sort_keys=True, default=str)
        if any(arguments.get(name) for name in _NOT_SHARED):
            self.release()
            self.loads += 1
            return read()
        if key != self._key:
            self.release()
            self._model = read()
            self.loads += 1
            self._key = key
        elif self._changed:
            self._restore()
        return self._model

    def keeps(self, model: Any) -> bool:
        """Whether this is the model that is kept."""
        return model is not None and model is self._model

    def about_to_change(self, model: Any) -> None:
        """Copy the weights that compression changes, unless that is done.

        Args:
            model: The model that is kept; nothing happens for another one.
        """
        if not self.keeps(model):
            return
        if not self._originals:
            from compressors.blocks.find import find_blocks

            inside = {
                id(parameter) for block in find_blocks(model) for _, parameter in block.parameters()
            }
            self._sha256 = survey_weights(model).sha256
            self._originals = {
                name: parameter.detach().to("cpu", copy=True)
                for name, parameter in model.named_parameters()
                if id(parameter) in inside
            }
        self._changed = True

    def _restore(self) -> None:
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                if name in self._originals:
                    parameter.data.copy_(self._originals[name])
        restored = survey_weights(self._model).sha256
        if restored != self._sha256:
            raise RuntimeError(
                f"The dense weights could not be restored ({restored} instead of {self._sha256}). "
                "This is a bug; please report the model and arguments, and evaluate cells one by "
                "one with `lmkick run`."
            )
        self._changed = False

    @property
    def sha256(self) -> str | None:
        """Hash of the dense weights; None before it was needed."""
        return self._sha256

    def parameters(self, model: Any, read: Callable[[], Any]) -> Mapping[str, Tensor]:
        """Dense parameters by name, in main memory where they are not the model's own."""
        if not self.keeps(model):
            return super().parameters(model, read)
        return {
            name: self._originals.get(name, parameter.data)
            for name, parameter in model.named_parameters()
        }

    def once(self, what: Any, find: Callable[[], Any]) -> Any:
        """Cached value that depends on the dense model and ``what`` alone."""
        key = _digest(what)
        if key not in self._found:
            self._found[key] = find()
        return self._found[key]

    def answers(self, requests: list[Any], ask: Callable[[list[Any]], list[Any]]) -> list[Any]:
        """Answers of the dense model; each request is answered once."""
        missing = [one for one in requests if _question(one) not in self._found]
        if missing:
            self.keep_answers(missing, ask(missing))
        return [self._found[_question(one)] for one in requests]

    def keep_answers(self, requests: list[Any], answers: list[Any]) -> None:
        """Keep what the dense model answered, for cells compared with it."""
        for request, answer in zip(requests, answers, strict=True):
            self._found[_question(request)] = answer

    def release(self) -> None:
        """Release the model and everything kept of it."""
        self._key = self._model = self._sha256 = None
        self._changed = False
        self._originals.clear()
        self._found.clear()
        free_memory()


def _digest(what: Any) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


def _question(request: Any) -> str:
    return _digest([request.request_type, *request.args])
