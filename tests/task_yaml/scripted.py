# SPDX-License-Identifier: Apache-2.0
"""A model whose answers a test decides, and that counts how often it was asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lm_eval.api.model import LM


class ScriptedLM(LM):
    """Answers by functions of the request."""

    tokenizer_name = "scripted"

    def __init__(
        self,
        say: Callable[[str], str] = lambda prompt: "nothing",
        score: Callable[[str, str], tuple[float, bool]] = lambda prompt, choice: (-1.0, False),
        roll: Callable[[str], float] = lambda text: -float(len(text)),
    ) -> None:
        super().__init__()
        self.say, self.score, self.roll = say, score, roll
        self.asked: list[tuple[str, tuple[Any, ...]]] = []

    def _note(self, kind: str, requests: list[Any]) -> None:
        self.asked += [(kind, request.args) for request in requests]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        self._note("generate_until", requests)
        return [self.say(request.args[0]) for request in requests]

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        self._note("loglikelihood", requests)
        return [self.score(*request.args) for request in requests]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        self._note("loglikelihood_rolling", requests)
        return [self.roll(request.args[0]) for request in requests]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        turns = "".join(f"[{turn['role']}]{turn['content']}" for turn in chat_history)
        return f"{turns}[assistant]" if add_generation_prompt else turns

    def chat_template(self, chat_template: bool | str = False) -> str:
        return "scripted"


class WindowLM(ScriptedLM):
    """Also serves ``windows``: one window for every 100 characters, of loss 1, 2, 3, ..."""

    def windows(self, requests: list[Any]) -> list[dict[str, Any]]:
        self._note("windows", requests)
        return [self._windows(*request.args) for request in requests]

    def _windows(self, text: str, options: dict[str, Any]) -> dict[str, Any]:
        losses = [float(number + 1) for number in range(len(text) // 100)][: options["limit"]]
        return {
            "nll": sum(losses) * 99,
            "tokens": 99 * len(losses),
            "windows": len(losses),
            "window_losses": losses,
            "window_clusters": [str(number) for number in range(len(losses))],
        }
