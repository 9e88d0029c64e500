# SPDX-License-Identifier: Apache-2.0
"""Quantized matrices among the tensors of a checkpoint, with their shapes checked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressors.errors import SettingsError
from lmkick_plugin.checkpoints.unpack import READERS

if TYPE_CHECKING:
    from lmkick_plugin.checkpoints.quantization_config import Scheme
    from lmkick_plugin.checkpoints.safetensors_headers import Shards
    from lmkick_plugin.checkpoints.unpack import Zeros

__all__ = ["StoredMatrix", "plain_parameters", "stored_matrices"]

_BNB_STATES = ("weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4")


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """One quantized weight matrix.

    Attributes:
        name: Its module's name.
        shape: ``(out_features, in_features)``; None where the format does not tell.
        layout: How to read it, a key of ``READERS``; None: that is not known here.
        settings: What its reader needs to know.
    """

    name: str
    shape: tuple[int, int] | None
    layout: str | None
    settings: Mapping[str, Any]

    def zeros(self, shards: Shards) -> Zeros:
        """Mask of zeros in blocks of rows; only where ``layout`` is known."""
        prefix = self.settings.get("prefix", f"{self.name}.")
        return READERS[str(self.layout)](lambda part: shards.read(prefix + part), self.settings)


def stored_matrices(shards: Shards, scheme: Scheme) -> Iterator[StoredMatrix]:
    """Find the quantized matrices by their tensors' names.

    Args:
        shards: The checkpoint.
        scheme: What its config says.

    Yields:
        One matrix after the other, in order of names.

    Raises:
        SettingsError: A matrix has shapes that the config's bits contradict.
    """
    tensors = shards.tensors
    for name in sorted(tensors):
        module, _, part = name.rpartition(".")
        if part == "qweight":
            yield (_awq if scheme.storage == "awq" else _gptq)(shards, scheme, module)
        elif part == "weight_packed":
            yield _packed(shards, scheme, module)
        elif part.startswith("_") and part.endswith("_qdata"):
            yield _torchao(shards, module, part)
        elif part == "weight":
            matrix = _plain(shards, module)
            if matrix is not None:
                yield matrix


def plain_parameters(shards: Shards, matrices: list[StoredMatrix]) -> int:
    """Number of parameters outside the quantized matrices: embeddings, norms, biases."""
    modules = {matrix.name for matrix in matrices}
    total = 0
    for name, tensor in shards.tensors.items():
        parts = name.split(".")
        # bitsandbytes keeps its state two levels below: q_proj.weight.quant_state...
        owners = {".".join(parts[:-depth]) for depth in (1, 2, 3)}
        if parts[-1] == "bias" or not modules & owners:
            total += tensor.numel
    return total


def _gptq(shards: Shards, scheme: Scheme, module: str) -> StoredMatrix:
    tensors = shards.tensors
    words, outputs = tensors[f"{module}.qweight"].shape
    g_idx = tensors.get(f"{module}.g_idx")
    groups, zero_words = tensors[f"{module}.qzeros"].shape
    if g_idx is not None:
        inputs = g_idx.numel
    elif scheme.group_size is not None and scheme.group_size > 0:
        inputs = groups * scheme.group_size
    else:
        inputs = words * 32 // (scheme.bits or 4)
    bits = _consistent(shards, scheme, f"{module}.qweight", words * 32, inputs)
    _consistent(shards, scheme, f"{module}.qzeros", zero_words * 32, outputs, bits)
    version = 2 if scheme.layout == "gptq_v2" else 1
    settings = {"bits": bits, "version": version, "g_idx": g_idx is not None}
    known = scheme.layout in (None, "gptq", "gptq_v2")
    return StoredMatrix(module, (outputs, inputs), "gptq" if known else None, settings)


def _awq(shards: Shards, scheme: Scheme, module: str) -> StoredMatrix:
    inputs, words = shards.tensors[f"{module}.qweight"].shape
    outputs = shards.tensors[f"{module}.scales"].shape[-1]
    if scheme.layout not in (None, "gemm"):
        return StoredMatrix(module, None, None, {})
    bits = _consistent(shards, scheme, f"{module}.qweight", words * 32, outputs)
    return StoredMatrix(module, (outputs, inputs), "awq", {"bits": bits})


def _packed(shards: Shards, scheme: Scheme, module: str) -> StoredMatrix:
    stored = shards.tensors[f"{module}.weight_packed"]
    if stored.dtype == "U8":  # two 4-bit floats a byte
        nibbles = len(stored.shape) == 2
        shape = (stored.shape[0], 2 * stored.shape[1]) if nibbles else None
        return StoredMatrix(module, shape, "nibbles" if nibbles else None, {})
    if f"{module}.weight_shape" not in shards.tensors or len(stored.shape) != 2:
        return StoredMatrix(module, None, None, {})
    outputs, inputs = (int(size) for size in shards.read(f"{module}.weight_shape"))
    bits = _consistent(shards, scheme, f"{module}.weight_packed", stored.shape[1] * 32, inputs)
    return StoredMatrix(
        module,
        (outputs, inputs),
        "packed",
        {
            "bits": bits,
            "zero_point": f"{module}.weight_zero_point" in shards.tensors,
            "g_idx": f"{module}.weight_g_idx" in shards.tensors,
        },
    )


def _torchao(shards: Shards, module: str, part: str) -> StoredMatrix:
    stored = shards.tensors[f"{module}.{part}"]
    point = part.replace("_qdata", "_zero_point")
    if stored.dtype not in ("I8", "F8_E4M3") or len(stored.shape) != 2:
        return StoredMatrix(module, None, None, {})
    settings = {"codes": part, "zero_point": point if f"{module}.{point}" in shards.tensors else ""}
    return StoredMatrix(module, _two(stored.shape), "plain", settings)


def _plain(shards: Shards, module: str) -> StoredMatrix | None:
    """A matrix stored as ``weight`` with a scale or a state beside it."""
    tensors, stored = shards.tensors, shards.tensors[f"{module}.weight"]
    state = next((state for state in _BNB_STATES if f"{module}.{state}" in tensors), None)
    if state is not None:
        import json

        said = json.loads(bytes(shards.read(f"{module}.{state}").tolist()))
        shape = _two(said["shape"])
        if 2 * stored.numel != shape[0] * shape[1]:
            raise SettingsError(
                f"{stored.file}: {module}.weight holds {2 * stored.numel} codes of 4 bits, but its "
                f"state says {shape[0]} x {shape[1]}: the checkpoint is damaged. Copy or download "
                "it again."
            )
        return StoredMatrix(module, shape, "bitsandbytes", {"state": state})
    scaled = any(
        f"{module}.{part}" in tensors for part in ("weight_scale", "weight_scale_inv", "SCB")
    )
    if not scaled or len(stored.shape) != 2:
        return None
    point = "weight_zero_point" if f"{module}.weight_zero_point" in tensors else ""
    return StoredMatrix(module, _two(stored.shape), "plain", {"zero_point": point})


def _consistent(
    shards: Shards, scheme: Scheme, name: str, stored_bits: int, codes: int, bits: int | None = None
) -> int:
    """Bits per code, checked against config.json.

    Raises:
        SettingsError: It is not what the config says, or what another tensor says.
    """
    wanted = bits or (None if scheme.mixed else scheme.bits)
    found = stored_bits // codes if codes else 0
    fits = 1 <= found <= 8 and 32 * math.ceil(codes * found / 32) == stored_bits
    if not fits or (wanted is not None and found != wanted):
        raise SettingsError(
            f"{shards.tensors[name].file}: {name} stores {stored_bits} bits for {codes} weights "
            f"({stored_bits / max(1, codes):g} each), but config.json says bits={wanted}. Download "
            "config.json and the weights again, both of one revision."
        )
    return found


def _two(shape: Any) -> tuple[int, int]:
    outputs, inputs = shape
    return int(outputs), int(inputs)
