# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of a causal LM on its device, by a plain greedy loop."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from compressors.errors import SettingsError
from lmkick_plugin.profile.memory import PeakMemory, bytes_in_memory
from lmkick_plugin.record.build import device_name

__all__ = ["Profile", "Spread", "check_sizes", "profile_for_record", "profile_model"]

_WARM_UPS = 1
#: Seconds after which no further repeat starts, once two were timed.
_BUDGET = 40.0


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Measured cost of one model.

    Attributes:
        batch_size, prompt_tokens, new_tokens: What was run.
        repeats: Timed runs, after one that is not counted.
        prefill: Prompt tokens per second, over the batch.
        decode: New tokens per second, over the batch, the first one excluded.
        first_token: Seconds until the first new token of the batch.
        peak_bytes: Peak memory while it ran: of the GPU's allocator, or of the process on a CPU;
            None where the system does not tell.
        memory_bytes: Weights and buffers in memory.
        disk_bytes: Of the checkpoint's weight files; None where there is no folder.
        device, dtype, threads: Where it ran; threads are torch's on a CPU, else None.
        storage: How the weights are stored in memory.
    """

    batch_size: int
    prompt_tokens: int
    new_tokens: int
    repeats: int
    prefill: Spread
    decode: Spread
    first_token: Spread
    peak_bytes: int | None
    memory_bytes: int
    disk_bytes: int | None
    device: str
    dtype: str
    threads: int | None
    storage: str

    def to_record(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return asdict(self)


def profile_model(
    model: Any,
    *,
    batch_size: int = 1,
    prompt_tokens: int = 128,
    new_tokens: int = 32,
    repeats: int = 5,
    folder: Path | None = None,
    storage: str = "dense",
) -> Profile:
    """Time prefill and greedy decoding with a KV cache.

    Prompts are random tokens, so no sequence ends early. Each repeat runs the whole prompt, then
    one token at a time. With fewer than ``repeats`` done after 40 s, no further one starts.

    Args:
        model: A causal LM of transformers, on its device.
        batch_size: Sequences at a time.
        prompt_tokens: Tokens of each prompt.
        new_tokens: Tokens generated per prompt, at least 2.
        repeats: Timed runs.
        folder: The checkpoint's folder, for its size on disk.
        storage: How the weights are stored, for the record.

    Raises:
        SettingsError: A size is out of range, or the context is too short.
    """
    check_sizes(model.config, batch_size, prompt_tokens, new_tokens, repeats)
    device = model.device
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(
        model.config.get_text_config().vocab_size, (batch_size, prompt_tokens), generator=generator
    ).to(device)
    firsts: list[float] = []
    rests: list[float] = []
    peak = PeakMemory(device)
    started = time.monotonic()
    with torch.inference_mode(), peak:
        for _ in range(_WARM_UPS):
            _run(model, prompt, new_tokens)
        while len(firsts) < repeats:
            if len(firsts) >= 2 and time.monotonic() - started > _BUDGET:
                break
            first, rest = _run(model, prompt, new_tokens)
            firsts.append(first)
            rests.append(rest)
    return Profile(
        batch_size=batch_size,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeats=len(firsts),
        prefill=Spread.of([batch_size * prompt_tokens / seconds for seconds in firsts]),
        decode=Spread.of([batch_size * (new_tokens - 1) / seconds for seconds in rests]),
        first_token=Spread.of(firsts),
        peak_bytes=peak.bytes,
        memory_bytes=bytes_in_memory(model),
        disk_bytes=None if folder is None else _weight_files(folder),
        device=device_name(device),
        dtype=str(model.dtype).removeprefix("torch."),
        threads=torch.get_num_threads() if device.type == "cpu" else None,
        storage=storage,
    )


def profile_for_record(model: Any) -> dict[str, Any]:
    """Measure with the default sizes, the prompt cut to a short context.

    Args:
        model: A causal LM of transformers, on its device.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 160
    new_tokens = min(32, context // 2)
    prompt_tokens = min(128, context - new_tokens)
    found = profile_model(model, prompt_tokens=prompt_tokens, new_tokens=new_tokens)
    return found.to_record()


def check_sizes(
    config: Any, batch_size: int, prompt_tokens: int, new_tokens: int, repeats: int
) -> None:
    """Refuse sizes out of range, or beyond the model's context.

    Args:
        config: The model's.
        batch_size: Sequences at a time.
        prompt_tokens: Of each prompt.
        new_tokens: Of each sequence.
        repeats: Timed runs.

    Raises:
        SettingsError: The message says which.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("prompt_tokens", prompt_tokens, 1),
        ("new_tokens", new_tokens, 2),
        ("repeats", repeats, 1),
    ):
        if value < least:
            raise SettingsError(f"{name}={value}: expected at least {least}.")
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if context is not None and prompt_tokens + new_tokens > context:
        raise SettingsError(
            f"prompt_tokens={prompt_tokens} and new_tokens={new_tokens} exceed the model's context "
            f"of {context} tokens. Use fewer."
        )


def _run(model: Any, prompt: torch.Tensor, new_tokens: int) -> tuple[float, float]:
    """Seconds to the first new token, and for the others."""
    begin = _now(prompt.device)
    output = model(prompt, use_cache=True, logits_to_keep=1)
    token = output.logits[:, -1:].argmax(-1)
    first = _now(prompt.device)
    for _ in range(new_tokens - 1):
        output = model(token, past_key_values=output.past_key_values, use_cache=True)
        token = output.logits[:, -1:].argmax(-1)
    return first - begin, _now(prompt.device) - first


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _weight_files(folder: Path) -> int | None:
    endings = (".safetensors", ".bin", ".gguf", ".pt")
    sizes = [path.stat().st_size for path in folder.iterdir() if path.name.endswith(endings)]
    return sum(sizes) if sizes else None
