# SPDX-License-Identifier: Apache-2.0
"""``quantize=``: formats of other libraries that transformers quantizes to while loading.

lm-eval's own ``load_in_4bit`` fails with transformers 5; a quantization config handed to
``from_pretrained`` works. What is missing is said before any weights are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from compressors.errors import SettingsError
from lmkick_plugin.checkpoints.quantization_config import Scheme
from lmkick_plugin.recipe.formats import QUANTIZE

__all__ = [
    "check_can_load", "check_quantize", "load_time_scheme", "loading_needs",
    "quantization_config",
]  # fmt: skip

#: What transformers needs to load a format: modules, and the extra that has them.
_NEEDS = {
    "gptq": (("gptqmodel", "optimum"), "gptq"),
    "awq": (("gptqmodel",), "gptq"),
    "bitsandbytes": (("bitsandbytes",), "bitsandbytes"),
    "compressed-tensors": (("compressed_tensors",), "compressed-tensors"),
    "torchao": (("torchao",), "torchao"),
    "gguf": (("gguf",), "gguf"),
}


def loading_needs(storage: str) -> str:
    """What has to be installed to load a format, and where; empty where everything is."""
    modules, extra = _NEEDS.get(storage, ((), ""))
    if all(find_spec(module) for module in modules):
        return ""
    return f"lmkick[{extra}]{_apart(extra)}"


def check_can_load(storage: str, *, device: str) -> None:
    """Refuse a checkpoint whose library is missing, or that does not run on this device.

    Args:
        storage: ``dense``, ``gguf``, or the checkpoint's quantization method.
        device: Where it is to run, as given; empty where nothing was said.

    Raises:
        SettingsError: The message has the install line, or says which device would do.
    """
    modules, extra = _NEEDS.get(storage, ((), ""))
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise SettingsError(
            f"Loading a checkpoint in {storage} format needs {' and '.join(missing)}. "
            f"{_install(extra)}"
        )
    if storage in ("fbgemm_fp8", "eetq", "mxfp4", "fp_quant", "higgs") and not _has_gpu(device):
        raise SettingsError(
            f"Checkpoints in {storage} format run on GPUs only. Use a GPU, or the unquantized "
            "checkpoint."
        )


def check_quantize(
    kind: str, stored: str | None, passed: Mapping[str, Any], prebuilt: bool
) -> None:
    """Refuse ``quantize`` where it cannot be applied, before weights are loaded.

    Args:
        kind: Value of the argument.
        stored: Quantization method of the checkpoint; None for a dense one.
        passed: The arguments for lm-eval's ``hf`` model.
        prebuilt: The model was given as an object.

    Raises:
        SettingsError: The library is missing, or the model cannot be quantized while loading.
    """
    if prebuilt:
        raise SettingsError(
            f"quantize={kind} quantizes while loading, but the model was given as an object. Give "
            "pretrained=NAME, or leave quantize out."
        )
    if stored is not None:
        raise SettingsError(
            f"quantize={kind}: the checkpoint is already quantized ({stored}). Leave quantize out, "
            "or give the unquantized checkpoint."
        )
    for name in ("gguf_file", "quantization_config", "load_in_4bit", "load_in_8bit", "tp_plan",
                 "autogptq", "gptqmodel"):  # fmt: skip
        if passed.get(name):
            raise SettingsError(
                f"quantize={kind} and {name}={passed[name]!r} contradict each other. Leave one of "
                "the two out."
            )
    library = QUANTIZE[kind]
    if find_spec(library) is None:
        raise SettingsError(f"quantize={kind} needs {library}. {_install(library)}")


def quantization_config(kind: str, dtype: Any) -> Any:
    """Quantization config for transformers.

    Args:
        kind: Value of the argument.
        dtype: The dtype in which dequantized weights are multiplied: the model's.

    Returns:
        For ``from_pretrained(quantization_config=)``. The decoder's linear layers are quantized,
        the head is not.
    """
    from transformers import BitsAndBytesConfig, TorchAoConfig

    settings: dict[str, Any] = {"load_in_8bit": True}
    if kind == "bnb-nf4":
        settings = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": dtype,
        }
    if kind.startswith("bnb-"):
        return BitsAndBytesConfig(**settings)  # type: ignore[no-untyped-call]
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig(version=2))


def load_time_scheme(kind: str) -> Scheme:
    """Scheme of the weights after loading with ``quantize``."""
    if kind == "bnb-nf4":
        return Scheme(storage="bitsandbytes", layout="nf4", method=kind, bits=4, group_size=64)
    layout = "int8" if kind == "bnb-int8" else None
    return Scheme(
        storage=QUANTIZE[kind], layout=layout, method=kind, bits=8, group_size=-1, symmetric=True
    )


def _install(extra: str) -> str:
    return f"Install it{_apart(extra)}: pip install 'lmkick[{extra}]'."


def _apart(extra: str) -> str:
    """Where an extra cannot share lmkick's environment: gptqmodel pins another numpy."""
    return " in an environment of its own" if extra == "gptq" else ""


def _has_gpu(device: str) -> bool:
    import torch

    return torch.cuda.is_available() and not device.startswith("cpu")
