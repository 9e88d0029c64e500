# SPDX-License-Identifier: Apache-2.0
"""Calibration samples: seeded random crops of C4, WikiText or a given text."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import random
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from compressors.base import is_integer
from compressors.errors import SettingsError

__all__ = ["first_token", "load_calibration"]

_log = logging.getLogger(__name__)

#: Each named source: Hub data set, load_dataset's further arguments, local file.
_NAMED: dict[str, tuple[str, dict[str, Any], str]] = {
    "c4": (
        "allenai/c4",
        {"data_files": {"train": "en/c4-train.00000-of-01024.json.gz"}},
        "web_text/train.jsonl",
    ),
    "wikitext": ("Salesforce/wikitext", {"name": "wikitext-2-raw-v1"}, "wikitext/train.jsonl"),
}
_FORMATS = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")
#: A tokenizer gives no more tokens than bytes, apart from a few special ones.
_SPECIAL_TOKENS = 8
#: When short documents are joined, this many bytes for each token wanted are surely enough.
_JOINED_BYTES_PER_TOKEN = 8


@dataclass(frozen=True, slots=True)
class _Text:
    """Calibration text.

    Attributes:
        name: For messages.
        documents: Its documents.
        joined: Whether they are one text.
        origin: ``hub``, ``data_dir``, ``file`` or ``texts``.
        file: The file that was read, or what of the Hub.
    """

    name: str
    documents: Sequence[str]
    joined: bool
    origin: str = "texts"
    file: str | None = None

    def provenance(self) -> dict[str, Any]:
        """Origin of the text as plain values; ``sha256`` is None for data of the Hub."""
        digest = None
        if self.origin == "texts":
            digest = hashlib.sha256("\0".join(self.documents).encode()).hexdigest()
        elif self.origin != "hub" and self.file is not None:
            digest = hashlib.sha256(Path(self.file).read_bytes()).hexdigest()
        return {
            "origin": self.origin,
            "file": self.file,
            "sha256": digest,
            "rows": len(self.documents),
        }


def first_token(tokenizer: Any, bos: str, **special: Any) -> int | None:
    """Token at the start of every sample and window: BOS, or None.

    A tokenizer that adds BOS adds it once per text, and models trained with it score text without
    it badly (Gemma 3 270M: more than twice the perplexity).

    Args:
        tokenizer: A transformers tokenizer.
        bos: ``auto`` (where the tokenizer adds it itself), ``always`` or ``never``.
        **special: How the tokenizer is called, such as ``add_special_tokens``.

    Raises:
        SettingsError: ``always``, and the tokenizer names no BOS.
    """
    token: int | None = getattr(tokenizer, "bos_token_id", None)
    if bos == "always":
        if token is None:
            raise SettingsError("bos=always: the tokenizer names no BOS token. Use bos=auto.")
        return token
    if bos == "never" or token is None:
        return None
    return token if list(tokenizer("a", **special)["input_ids"])[:1] == [token] else None


def load_calibration(
    source: str | Path | Iterable[str],
    tokenizer: Any,
    *,
    nsamples: int = 128,
    seqlen: int = 2048,
    seed: int = 0,
    max_length: int | None = None,
    data_dir: str | Path | None = None,
    bos: str = "auto",
    progress: bool = True,
    provenance: dict[str, Any] | None = None,
) -> Tensor:
    """Make calibration samples from text.

    From C4, ``.jsonl`` files and lists of texts: random crops of documents that are long enough,
    taken in seeded random order. Where fewer are long enough than samples are wanted, documents are
    joined by two newlines and cropped; where all are, each gives several crops. Both are logged.
    WikiText and ``.txt`` files: random crops of the whole text, rows joined by two
    newlines.

    Args:
        source: ``"c4"`` (allenai/c4, en, the first training shard), ``"wikitext"`` (WikiText-2 raw,
            train), the path of a ``.txt`` or ``.jsonl`` file (``.gz`` too; the field is ``text``),
            or texts.
        tokenizer: A transformers tokenizer. Where it adds no BOS, the special tokens that it adds
            stay with their document.
        nsamples: Samples to make.
        seqlen: Tokens of a sample; cut to the model's context, which is logged.
        seed: Of the choice of documents and crops.
        max_length: The model's context; None takes the tokenizer's.
        data_dir: Read ``web_text/train.jsonl`` for C4 and ``wikitext/train.jsonl`` for WikiText
            from this directory, instead of from the Hub.
        bos: Whether BOS begins every sample: ``auto`` (where the tokenizer adds it itself),
            ``always`` or ``never``.
        progress: Show a progress bar.
        provenance: Filled with where the text came from: ``origin``, ``file``, ``sha256``,
            ``rows``.

    Returns:
        Token ids, int64 ``[nsamples, seqlen]``.

    Raises:
        SettingsError: The text cannot be had or read, or is too short for one sample.

    References:
        The settings of Sun et al., arXiv:2306.11695, and Frantar et al., arXiv:2301.00774 (128
        samples of 2,048 tokens from the first shard of C4).
    """
    for name, value in (("nsamples", nsamples), ("seqlen", seqlen)):
        if not is_integer(value) or value < 1:
            raise SettingsError(f"{name}={value!r}: expected a whole number, at least 1")
    context = max_length or getattr(tokenizer, "model_max_length", None)
    if context is not None and seqlen > context:
        _log.warning(
            "seqlen=%d exceeds the model's context: calibration samples are cut to %d",
            seqlen, context,
        )  # fmt: skip
        seqlen = int(context)
    text = _find(source, data_dir)
    if not any(document.strip() for document in text.documents):
        raise SettingsError(f"{text.name}: holds no text; give another source")
    if provenance is not None:
        provenance |= text.provenance()
    begin = first_token(tokenizer, bos)
    if begin is not None and seqlen < 2:
        raise SettingsError(f"seqlen={seqlen}: BOS leaves no room for text; give at least 2")
    sampler = _Sampler(tokenizer, nsamples, seqlen, random.Random(seed), begin, bos)
    with tqdm(
        total=nsamples, desc=f"calibration {text.name}", unit="sample", disable=not progress
    ) as bar:
        samples = sampler.joined(text) if text.joined else sampler.cropped(text, bar)
        bar.update(len(samples) - bar.n)
    return torch.tensor(samples, dtype=torch.int64)


class _Sampler:
    """Cuts samples out of documents."""

    def __init__(
        self,
        tokenizer: Any,
        nsamples: int,
        seqlen: int,
        rng: random.Random,
        begin: int | None = None,
        bos: str = "auto",
    ) -> None:
        self._tokenizer = tokenizer
        self._nsamples = nsamples
        self._begin = [] if begin is None else [begin]
        self._seqlen = seqlen - len(self._begin)  # tokens of text
        self._rng = rng
        # BOS begins samples, not documents.
        self._special = {"add_special_tokens": False} if self._begin or bos == "never" else {}

    def cropped(self, text: _Text, bar: tqdm[Any]) -> list[list[int]]:
        """Crop documents that are long enough; join documents where too few are."""
        order = list(range(len(text.documents)))
        self._rng.shuffle(order)
        samples: list[list[int]] = []
        long: list[list[int]] = []
        for index in order:
            if len(samples) == self._nsamples:
                return samples
            document = text.documents[index]
            if len(document.encode()) + _SPECIAL_TOKENS < self._seqlen:
                continue
            tokens = self._tokens(document)
            if len(tokens) >= self._seqlen:
                long.append(tokens)
                samples.append(self._crop(tokens))
                bar.update()
        if len(samples) == self._nsamples:
            return samples
        if len(long) < sum(bool(document.strip()) for document in text.documents):
            return self._from_several(text, order, len(long))
        _log.warning(
            "%s: documents of %d tokens or more: %d; further crops of those: %d",
            text.name, self._seqlen, len(long), self._nsamples - len(samples),
        )  # fmt: skip
        more = self._nsamples - len(samples)
        return samples + [self._crop(self._rng.choice(long)) for _ in range(more)]

    def joined(self, text: _Text) -> list[list[int]]:
        """Crop the whole text."""
        return self._from_one(text.name, "\n\n".join(text.documents))

    def _from_several(self, text: _Text, order: Sequence[int], long: int) -> list[list[int]]:
        _log.warning(
            "%s: documents of %d tokens or more: %d, for %d samples, so documents are joined and "
            "crops may span several",
            text.name, self._seqlen, long, self._nsamples,
        )  # fmt: skip
        wanted = _JOINED_BYTES_PER_TOKEN * self._nsamples * self._seqlen
        parts: list[str] = []
        for index in order:
            parts.append(text.documents[index])
            wanted -= len(parts[-1].encode())
            if wanted <= 0:
                break
        return self._from_one(text.name, "\n\n".join(parts))

    def _from_one(self, name: str, text: str) -> list[list[int]]:
        tokens = self._tokens(text)
        if len(tokens) < self._seqlen:
            raise SettingsError(
                f"{name}: {len(tokens)} tokens are too short for one calibration sample of "
                f"{self._seqlen + len(self._begin)}; lower seqlen, or give more text"
            )
        return [self._crop(tokens) for _ in range(self._nsamples)]

    def _crop(self, tokens: list[int]) -> list[int]:
        start = self._rng.randrange(len(tokens) - self._seqlen + 1)
        return self._begin + tokens[start : start + self._seqlen]

    def _tokens(self, text: str) -> list[int]:
        # Not verbose: that a document is longer than the context is what we want.
        return list(self._tokenizer(text, verbose=False, **self._special)["input_ids"])


def _find(source: str | Path | Iterable[str], data_dir: str | Path | None) -> _Text:
    """Find the text of ``source``."""
    if isinstance(source, str) and source in _NAMED:
        dataset, arguments, local = _NAMED[source]
        joined = source == "wikitext"
        if data_dir is None:
            part = next(iter(arguments.get("data_files", {}).values()), arguments.get("name"))
            rows = _from_hub(source, dataset, arguments, local)
            return _Text(source, rows, joined, "hub", f"{dataset}: {part}")
        path = Path(data_dir) / local
        zipped = path.with_name(path.name + ".gz")
        path = zipped if zipped.exists() and not path.exists() else path
        if not path.exists():
            raise SettingsError(
                f"calibration={source}: {path} does not exist; put it there (JSON Lines with the "
                "field text), give another file as calibration, or leave data_dir out to use the "
                "Hub"
            )
        return _Text(str(path), _read_jsonl(path), joined, "data_dir", str(path))
    if isinstance(source, str | Path):
        return _from_file(Path(source))
    texts = list(source)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise SettingsError(f"calibration[{number}] is {text!r:.60}. Give a list of strings.")
    return _Text("the given texts", texts, joined=False)


def _from_hub(source: str, dataset: str, arguments: dict[str, Any], local: str) -> Sequence[str]:
    from datasets import load_dataset

    try:
        rows = load_dataset(dataset, split="train", **arguments)
    except Exception as error:
        # Many libraries take part in a download; whichever failed, the way out is the same.
        part = next(iter(arguments.get("data_files", {}).values()), arguments.get("name"))
        raise SettingsError(
            f"calibration={source}: could not fetch {dataset} ({part}) from the Hugging Face Hub: "
            f"{type(error).__name__}: {error}. Without network, give data_dir=DIR with "
            f"{local}, or the path of a .txt or .jsonl file as calibration"
        ) from error
    column: Sequence[str] = rows["text"]
    return column


def _from_file(path: Path) -> _Text:
    if not path.is_file():
        raise SettingsError(
            f"calibration={path}: no such file; give one of {', '.join(_NAMED)}, or the path of a "
            f"file ending in {', '.join(_FORMATS)}"
        )
    kind = path.name.removesuffix(".gz")
    if kind.endswith(".jsonl"):
        return _Text(str(path), _read_jsonl(path), False, "file", str(path))
    if kind.endswith(".txt"):
        return _Text(str(path), [_read(path)], True, "file", str(path))
    raise SettingsError(f"calibration={path}: the name must end in one of {', '.join(_FORMATS)}")


def _read_jsonl(path: Path) -> list[str]:
    texts = []
    # Not splitlines(): JSON strings may hold other separators, such as U+2028, as they are.
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SettingsError(
                f"{path}, line {number}: not JSON ({error}); the file must hold one JSON object a "
                "line, with the field text"
            ) from error
        text = row.get("text") if isinstance(row, dict) else None
        if not isinstance(text, str):
            if not isinstance(row, dict):
                found = type(row).__name__
            else:
                found = f"text={text!r:.40}" if "text" in row else f"{sorted(row)}"[:200]
            raise SettingsError(
                f"{path}, line {number}: no string field 'text' (it has {found}); rename the "
                "field that holds the text"
            )
        texts.append(text)
    return texts


def _read(path: Path) -> str:
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if path.suffix == ".gz" else raw
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{path}: not UTF-8 (byte {error.start}); convert it, for instance with iconv -t utf-8"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    if not text.strip():
        raise SettingsError(f"{path}: the file is empty; give one that holds text")
    return text
