# SPDX-License-Identifier: Apache-2.0
"""One dense model for all its cells: loaded once, restored from one copy of its blocks' weights."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lmkick_plugin.data.calibration import PreparedCalibration
from lmkick_plugin.model import KickLM
from lmkick_plugin.record.weights import survey_weights
from lmkick_plugin.sweep.evaluate import free_memory

__all__ = ["DenseModel", "SweptLM"]

_LOG = logging.getLogger(__name__)

# With these the model is not simply the checkpoint on one device, and is loaded for each cell.
_NOT_SHARED = (
    "parallelize", "tp_plan", "peft", "delta", "autogptq", "gptqmodel", "gguf_file",
    "quantization_config", "load_in_4bit", "load_in_8bit", "device_map",
)  # fmt: skip


class DenseModel:
    """A model that stays loaded, and what its cells can share.

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

    def load(self, arguments: Mapping[str, Any], load: Callable[[], Any]) -> Any:
        """The dense model.

        Args:
            arguments: What decides which model that is, and how it is loaded.
            load: Reads the checkpoint.

        Returns:
            The model that is there already, with its dense weights restored, or a new one.

        Raises:
            RuntimeError: The restored weights are not the dense ones.
        """
        key = json.dumps(dict(arguments), sort_keys=True, default=str)
        if any(arguments.get(name) for name in _NOT_SHARED):
            self.release()
            self.loads += 1
            return load()
        if key != self._key:
            self.release()
            self._model = load()
            self.loads += 1
            self._key = key
        elif self._changed:
            self._restore()
        return self._model

    def keeps(self, model: Any) -> bool:
        """Whether this is the model that is kept."""
        return model is not None and model is self._model

    def about_to_change(self, model: Any) -> None:
        """Copy what compression is going to change, unless that is done.

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
                f"The dense weights could not be restored ({restored} instead of {self._sha256}): "
                "compression changed something outside the decoder blocks' matrices. Please report "
                "this, with the model and its arguments; `lmkick run` evaluates one cell by itself."
            )
        self._changed = False

    @property
    def sha256(self) -> str | None:
        """Hash of the dense weights; None as long as nothing asked for it."""
        return self._sha256

    def originals(self) -> dict[str, Tensor]:
        """The dense parameters by name, in main memory where they are not the model's own."""
        return {
            name: self._originals.get(name, parameter.data)
            for name, parameter in self._model.named_parameters()
        }

    def once(self, what: Any, find: Callable[[], Any]) -> Any:
        """Something that depends on the dense model and ``what`` alone, found out once.

        Args:
            what: Anything that JSON can hold.
            find: Finds it.
        """
        key = _digest(what)
        if key not in self._found:
            self._found[key] = find()
        return self._found[key]

    def recall(self, what: Any) -> Any:
        """What :meth:`note` was given, or None."""
        return self._found.get(_digest(what))

    def note(self, what: Any, value: Any) -> None:
        """Keep something for :meth:`recall`."""
        self._found[_digest(what)] = value

    def release(self) -> None:
        """Let go of the model and everything that was kept of it."""
        self._key = self._model = self._sha256 = None
        self._changed = False
        self._originals.clear()
        self._found.clear()
        free_memory()


def _digest(what: Any) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


class SweptLM(KickLM):
    """A :class:`KickLM` whose dense weights may be there already; otherwise exactly that."""

    def __init__(self, dense: DenseModel, **arguments: Any) -> None:
        """Take, restore or load the dense model, then compress it.

        Args:
            dense: What cells of one model share.
            **arguments: Of :class:`KickLM`.
        """
        self._dense = dense
        super().__init__(**arguments)

    def _load(self, **arguments: Any) -> None:
        def load() -> Any:
            super(SweptLM, self)._load(**arguments)
            return self._model

        self._model = self._dense.load({**arguments, "device": str(self._device)}, load)

    def _compress(self, *arguments: Any, **options: Any) -> None:
        self._dense.about_to_change(self._model)
        super()._compress(*arguments, **options)

    def _load_calibration(self) -> PreparedCalibration | None:
        recipe = self.recipe
        what = ["calibration", recipe.calibration, recipe.nsamples, recipe.seqlen, recipe.seed]
        found: PreparedCalibration | None = self._dense.once(what, super()._load_calibration)
        return found

    def _write(self, nsamples: int, seqlen: int, seed: int) -> Tensor:
        def write() -> Tensor:
            return super(SweptLM, self)._write(nsamples, seqlen, seed)

        written: Tensor = self._dense.once(["self", nsamples, seqlen, seed], write)
        return written

    def _dense_parameters(self) -> Mapping[str, Tensor]:
        if self._dense.keeps(self._model):
            return self._dense.originals()
        return super()._dense_parameters()

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """As in ``kick``; what the dense model answers is kept for those compared with it."""
        answers = super().generate_until(requests, disable_tqdm=disable_tqdm)
        if self.is_dense:
            self._note(requests, answers)
        return answers

    def turns(self, requests: list[Any]) -> list[list[str]]:
        """As in ``kick``; what the dense model answers is kept for those compared with it."""
        answers = super().turns(requests)
        if self.is_dense:
            self._note(requests, answers)
        return answers

    def answer_as_dense(self, requests: list[Any]) -> list[Any]:
        """As in ``kick``; no question is put to the dense model twice."""
        if self.recipe.reference is not None:
            return super().answer_as_dense(requests)
        missing = [one for one in requests if self._dense.recall(_question(one)) is None]
        if missing:
            self._note(missing, super().answer_as_dense(missing))
        return [self._dense.recall(_question(one)) for one in requests]

    def _note(self, requests: list[Any], answers: list[Any]) -> None:
        for request, answer in zip(requests, answers, strict=True):
            self._dense.note(_question(request), answer)


def _question(request: Any) -> list[Any]:
    return [request.request_type, *request.args]
