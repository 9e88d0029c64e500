# SPDX-License-Identifier: Apache-2.0
"""Ask an endpoint which models it has: it costs nothing, and shows a wrong key or address."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from lmkick_plugin.judge.client import missing_requirement
from lmkick_plugin.judge.endpoint_errors import classify
from lmkick_plugin.judge.settings import JudgeSettings, api_key

__all__ = ["Probe", "probe"]

_SECONDS = 15.0
_REFUSALS = (401, 403)


@dataclass(frozen=True, slots=True)
class Probe:
    """What an endpoint says of itself.

    Attributes:
        problem: Why nothing can be asked there; None where nothing speaks against it.
        models: The models that it lists; None where it lists none (that is optional).
    """

    problem: str | None
    models: tuple[str, ...] | None = None

    def lacks(self, model: str) -> bool:
        """Whether there is a list of models, and ``model`` is not on it."""
        return bool(self.models) and model not in (self.models or ())


def probe(settings: JudgeSettings, base_url: str | None) -> Probe:
    """Look at an endpoint; once in a process, unless there is a problem.

    Args:
        settings: The judge's.
        base_url: The endpoint; None for OpenAI's own.

    Returns:
        What was found.
    """
    found = _look(settings, base_url)
    if found.problem is not None:
        _look.cache_clear()
    return found


@functools.lru_cache(maxsize=8)
def _look(settings: JudgeSettings, base_url: str | None) -> Probe:
    missing = missing_requirement(base_url)
    if missing is not None:
        return Probe(missing)
    import openai

    key = api_key()
    try:
        with openai.OpenAI(
            api_key=key or "no-key",
            base_url=base_url,
            max_retries=1,
            timeout=min(_SECONDS, settings.timeout),
        ) as client:
            listed = getattr(client.models.list(), "data", None)
    except (openai.OpenAIError, OSError, ValueError) as error:
        fault = classify(error, settings, has_key=key is not None)
        unreachable = isinstance(error, openai.APIConnectionError)
        if unreachable or fault.status in _REFUSALS:
            reason = fault.reason if key is None else fault.reason.replace(key, "***")
            return Probe(f"{base_url or 'https://api.openai.com/v1'}: {reason}")
        return Probe(None)
    names = [getattr(model, "id", None) for model in listed or ()]
    return Probe(None, tuple(name for name in names if isinstance(name, str)) or None)
