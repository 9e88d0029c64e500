# SPDX-License-Identifier: Apache-2.0
"""Calibration sources: text, a task's training text, the model's own text, mixtures.

``c4``, ``wikitext`` and files are :mod:`compressors.calibration`'s; here is what needs to know of
tasks (``task:NAME``) or of the dense model (``self``), and ``mix:a+b``, equal parts of several
sources. Nothing here imports torch at module level.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressors.errors import SettingsError
from lmkick_plugin.recipe.calibration_source import NAMED, parts_of, text_files
from lmkick_plugin.recipe.readers import suggest

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PreparedCalibration", "check_text", "prepare"]

# Of a data directory, for the sources that are read from the Hub without one.
_FILES = {"c4": "web_text/train.jsonl", "wikitext": "wikitext/train.jsonl"}

_LOG = logging.getLogger(__name__)

_DOMAINS = {"c4": "web", "wikitext": "encyclopedia"}


@dataclass(frozen=True)
class PreparedCalibration:
    """Calibration tokens as far as known before the model is loaded.

    Attributes:
        parts: Tokens, int64 ``[samples, seqlen]``; or how many samples the model is to write.
        seqlen: Tokens of a sample.
        seed: Of what the model writes, and of the order of a mixture.
        sources: Where each part came from: ``source``, ``domain``, ``origin``, ``file``,
            ``sha256``, ``rows``.
    """

    parts: tuple[Tensor | int, ...]
    seqlen: int
    seed: int
    sources: tuple[dict[str, Any], ...] = ()

    def tokens(self, write: Callable[[int, int, int], Tensor]) -> Tensor:
        """Complete the tokens; int64 ``[nsamples, seqlen]``.

        Args:
            write: Lets the dense model write; called with samples, tokens of each, and seed.
        """
        import torch

        found = [
            write(part, self.seqlen, self.seed) if isinstance(part, int) else part
            for part in self.parts
        ]
        if len(found) == 1:
            return found[0]
        mixed = torch.cat(found)
        order = torch.Generator().manual_seed(self.seed)
        return mixed[torch.randperm(len(mixed), generator=order)]


def prepare(
    source: str,
    tokenizer: Any,
    *,
    nsamples: int,
    seqlen: int,
    seed: int,
    max_length: int | None,
    data_dir: str | None,
    bos: str = "auto",
    progress: bool,
) -> PreparedCalibration:
    """Load the text of a source, before any weights.

    Args:
        source: As :func:`check_source` returns it.
        tokenizer: The model's.
        nsamples: Samples; a mixture's parts get equal shares, the first ones one more where it does
            not come out even.
        seqlen: Tokens of a sample; cut to the model's context.
        seed: Of crops, of what the model writes, and of the order of a mixture.
        max_length: The model's context.
        data_dir: Folder of local data files.
        bos: Whether BOS begins every sample: ``auto``, ``always`` or ``never``.
        progress: Show progress bars.

    Raises:
        SettingsError: Text is missing or too short, or there are fewer samples than parts.
    """
    from compressors import load_calibration
    from lmkick_plugin.data.sources import DataError

    sources = parts_of(source)
    if nsamples < len(sources):
        raise SettingsError(
            f"nsamples={nsamples} is less than the {len(sources)} parts of calibration={source}. "
            f"Give nsamples={len(sources)} or more."
        )
    length = seqlen if max_length is None else min(seqlen, max_length)
    if length < seqlen and "self" in sources:
        _LOG.warning("calibration=%s: the model generates %d tokens, its context", source, length)
    parts: list[Tensor | int] = []
    found: list[dict[str, Any]] = []
    for place, part in enumerate(sources):
        share = nsamples // len(sources) + (place < nsamples % len(sources))
        if part == "self":
            parts.append(share)
            found.append({"source": part, "domain": "the model's own text", "origin": "model"})
            continue
        task = part.startswith("task:")
        origin: dict[str, Any] = {"source": part, "domain": _DOMAINS.get(part, "own file")}
        try:
            parts.append(
                load_calibration(
                    _training_text(part, data_dir) if task else part,
                    tokenizer,
                    nsamples=share,
                    seqlen=length if len(sources) > 1 else seqlen,
                    seed=seed,
                    max_length=max_length,
                    data_dir=data_dir,
                    bos=bos,
                    progress=progress,
                    provenance=origin,
                )
            )
            found.append(origin | ({"domain": "task", "origin": "task"} if task else {}))
        except UnicodeEncodeError as error:
            raise SettingsError(
                f"calibration={part}: a text holds a lone surrogate (such as \\ud800 in JSON). "
                "Remove it."
            ) from error
        except (DataError, SettingsError) as error:
            if part.startswith("task:"):
                raise SettingsError(f"calibration={part}: {error}") from error
            raise
    return PreparedCalibration(tuple(parts), length, seed, tuple(found))


def check_text(source: str, data_dir: str | None) -> None:
    """Refuse a local source that does not exist; reads nothing.

    Args:
        source: As :func:`check_source` returns it.
        data_dir: Folder of local data files.

    Raises:
        SettingsError: A file is missing.
    """
    from lmkick_plugin.data.sources import data_directory

    folder = data_directory(data_dir)
    for part in parts_of(source):
        name = _FILES.get(part)
        if name is None or folder is None:
            continue
        if not any((folder / file).is_file() for file in (name, f"{name}.gz")):
            raise SettingsError(
                f"calibration={part}: data directory {folder} has no file {name}. Add it, or "
                "choose another calibration."
            )
    for path in text_files(source):
        if not Path(path).is_file():
            raise SettingsError(
                f"calibration={path}: no such file. {suggest(path, NAMED)}Give c4, wikitext, "
                "self, task:NAME, mix:A+B, or the path of a .txt or .jsonl file."
            )


def _training_text(part: str, data_dir: str | None) -> list[str]:
    from lmkick_plugin.data.calibration_task_text import training_text

    return training_text(part.removeprefix("task:"), data_dir)
