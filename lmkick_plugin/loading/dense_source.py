# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ARG002  # subclasses need the arguments that nothing is kept by here
"""Source of a model's dense weights: its checkpoint, or weights shared by several runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

__all__ = ["DenseSource"]


class DenseSource:
    """Dense weights read from the checkpoint each time; nothing is kept.

    A sweep hands :class:`lmkick_plugin.model.KickLM` a subclass that keeps what its cells share.
    """

    def load(self, arguments: Mapping[str, Any], read: Callable[[], Any]) -> Any:
        """The dense model.

        Args:
            arguments: What decides which model that is, and how it is loaded.
            read: Reads the checkpoint.
        """
        return read()

    def about_to_change(self, model: Any) -> None:
        """Note that a model from :meth:`load` is about to be compressed in place."""

    def parameters(self, model: Any, read: Callable[[], Any]) -> Mapping[str, Tensor]:
        """The dense parameters by name, in main memory.

        Args:
            model: The evaluated model, compressed meanwhile.
            read: Reads the checkpoint again.
        """
        return dict(read().named_parameters())

    def once(self, what: Any, find: Callable[[], Any]) -> Any:
        """A value that depends on the dense model and ``what`` alone, such as calibration text.

        Args:
            what: Anything that JSON can hold.
            find: Computes the value.
        """
        return find()

    def answers(self, requests: list[Any], ask: Callable[[list[Any]], list[Any]]) -> list[Any]:
        """The dense model's answers.

        Args:
            requests: lm-eval instances.
            ask: Lets the dense model answer some of them.
        """
        return ask(requests)

    def keep_answers(self, requests: list[Any], answers: list[Any]) -> None:
        """Note answers of the dense model."""
