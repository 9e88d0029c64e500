# SPDX-License-Identifier: Apache-2.0
"""Table of lmkick's arguments, and of those of lm-eval that are read here."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from compressors.errors import SettingsError
from compressors.number_formats import NUMBER_FORMATS
from lmkick_plugin import bundled
from lmkick_plugin.recipe.allocation import read_allocation, read_not_negative
from lmkick_plugin.recipe.calibration_source import check_source
from lmkick_plugin.recipe.formats import FORMATS, read_quantize
from lmkick_plugin.recipe.methods import (
    CALIBRATED,
    COMPRESSORS,
    METHODS,
    PRUNERS,
    QUANTIZERS,
    ROUNDERS,
)
from lmkick_plugin.recipe.readers import (
    BOS,
    check_path,
    is_unset,
    read_batch_size,
    read_bool,
    read_choice,
    read_device,
    read_float,
    read_folder,
    read_int,
    read_seeds,
    read_text,
)
from lmkick_plugin.recipe.recipe import split_pattern

__all__ = ["ARGUMENTS", "PASSED", "Argument"]


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument.

    Attributes:
        read: Checks a value and converts it.
        help: What it means, for ``--help``.
        goes_with: Compressors.
        default: Where the argument applies; methods may have one of their own.
    """

    read: Callable[[str, Any], Any]
    help: str
    goes_with: tuple[str, ...] = COMPRESSORS
    default: Any = None


def _read_pattern(name: str, value: object) -> str:
    text = str(value).strip().lower()
    if text == "unstructured":
        return text
    if re.fullmatch(r"\d+:\d+", text) is None:
        yaml = " In YAML, quote it: pattern: '2:4'." if not isinstance(value, str) else ""
        raise SettingsError(
            f"{name}={value!r}: expected unstructured or N:M, such as 2:4 (2 weights kept of "
            f"every 4).{yaml}"
        )
    kept, every = split_pattern(text)
    if not 0 < kept < every:
        remedy = f"pattern={every}:{kept}" if 0 < every < kept else "pattern=2:4"
        raise SettingsError(
            f"{name}={value!r}: N:M keeps N weights of every M, so N must lie between 1 and M-1. "
            f"Did you mean {remedy}?"
        )
    return f"{kept}:{every}"


def _read_sparsity(name: str, value: object) -> float:
    sparsity = read_float(name, value)
    if not 0 <= sparsity < 1:
        meant = f" Did you mean {name}={sparsity / 100:g}?" if 2 <= sparsity < 100 else ""
        raise SettingsError(
            f"{name}={value!r}: expected the share of weights to zero, at least 0 and below 1."
            f"{meant}"
        )
    return sparsity


def _read_group_size(name: str, value: object) -> int:
    size = -1 if is_unset(value) else read_int(name, value)
    if size != -1 and size < 1:
        raise SettingsError(
            f"{name}={value!r}: expected the input columns per scale, such as 128, or -1 for one "
            "scale per row."
        )
    return size


def _read_above_zero(name: str, value: object, *, wanted: str) -> float:
    number = read_float(name, value)
    if number <= 0:
        raise SettingsError(f"{name}={value!r}: expected {wanted}.")
    return number


_read_fraction = partial(_read_above_zero, wanted="a number above 0, such as 0.01")
_read_gigabytes = partial(_read_above_zero, wanted="GB that the cache may take, such as 100")


def _read_calibration(name: str, value: object) -> str:
    return check_source(check_path(name, value))


def _read_data_dir(name: str, value: object) -> str:
    text = check_path(name, value)
    if not Path(bundled.data_folder(text)).is_dir():
        raise SettingsError(
            f"{name}={text}: no such folder. Give the folder of the data files, or leave {name} "
            "out to use the Hub."
        )
    return text


def _read_new_folder(name: str, value: object) -> str:
    from lmkick_plugin.files import check_target

    text = check_path(name, value)
    check_target(text)
    return text


def _read_place(name: str, value: Any) -> Any:
    """A name or path; objects, such as a loaded model, pass."""
    return check_path(name, value) if isinstance(value, str) else value


def _with(argument: str) -> tuple[str, ...]:
    """Methods with an argument of their own."""
    return tuple(name for name, method in METHODS.items() if argument in method.arguments)


#: Calibration goes with every pruner where it decides the blocks' sparsities (allocation=owl).
_CALIBRATABLE = tuple(dict.fromkeys((*CALIBRATED, *PRUNERS)))

#: The contract: every argument of ours. A default holds where the argument applies.
ARGUMENTS: dict[str, Argument] = {
    "compressor": Argument(partial(read_choice, choices=COMPRESSORS), "the method", default="none"),
    "sparsity": Argument(_read_sparsity, "share of weights to zero, such as 0.5", PRUNERS),
    "pattern": Argument(_read_pattern, "N:M, N weights kept of every M, such as 2:4", PRUNERS),
    "bits": Argument(partial(read_int, low=2, high=8), "2 to 8", QUANTIZERS),
    "group_size": Argument(
        _read_group_size, "input columns per scale; -1: one scale per row", QUANTIZERS, 128
    ),
    "symmetric": Argument(read_bool, "symmetric grid", QUANTIZERS, True),
    "number_format": Argument(
        partial(read_choice, choices=NUMBER_FORMATS), "int, fp8, mxfp4 or nvfp4", ROUNDERS, "int"
    ),
    "act_order": Argument(
        read_bool, "columns by falling Hessian diagonal", _with("act_order"), True
    ),
    "act_group_aware": Argument(read_bool, "columns group by group", _with("act_group_aware")),
    "static_groups": Argument(
        read_bool, "group scales found before the column pass", _with("static_groups"), True
    ),
    "wanda_variant": Argument(
        read_bool, "row-wise cumulative threshold", _with("wanda_variant"), False
    ),
    "grid_points": Argument(
        partial(read_int, low=1), "scale exponents tried", _with("grid_points"), 20
    ),
    "clip": Argument(read_bool, "clip groups", _with("clip"), True),
    "duo_scaling": Argument(read_bool, "scale by the weights too", _with("duo_scaling"), False),
    "dampening_frac": Argument(
        _read_fraction,
        "damping, as a share of the Hessian's mean diagonal",
        _with("dampening_frac"),
        0.01,
    ),
    "block_size": Argument(partial(read_int, low=1), "columns per block", _with("block_size"), 128),
    "true_sequential": Argument(
        read_bool, "q/k/v, then o, then gate/up, then down", CALIBRATED, False
    ),
    "allocation": Argument(
        read_allocation, "sparsity by block: uniform, owl or file:PATH", PRUNERS
    ),
    "owl_lambda": Argument(read_not_negative, "half of OWL's spread", PRUNERS),
    "owl_threshold": Argument(
        read_not_negative, "outliers exceed this many times the mean score", PRUNERS
    ),
    "calibration": Argument(
        _read_calibration,
        "c4, wikitext, a .txt or .jsonl file, task:NAME, self or mix:a+b",
        _CALIBRATABLE,
        "c4",
    ),
    "nsamples": Argument(partial(read_int, low=1), "calibration samples", _CALIBRATABLE, 128),
    "seqlen": Argument(partial(read_int, low=2), "tokens per sample", _CALIBRATABLE, 2048),
    "seed": Argument(read_seeds, "of the samples", _CALIBRATABLE, (0,)),
    "data_dir": Argument(_read_data_dir, "local files of tasks and calibration text"),
    "resume_dir": Argument(
        read_folder, "keep finished blocks here; a killed run continues", COMPRESSORS[1:]
    ),
    "compress_cache": Argument(
        read_folder, "reuse compressed weights from here in later runs", COMPRESSORS[1:]
    ),
    "compress_cache_gb": Argument(
        _read_gigabytes, "size limit of compress_cache, in GB", COMPRESSORS[1:]
    ),
    "save_compressed": Argument(_read_new_folder, "save the model here", COMPRESSORS[1:]),
    "save_format": Argument(
        partial(read_choice, choices=FORMATS), "dense, gptq or compressed-tensors", COMPRESSORS[1:]
    ),
    "reference": Argument(check_path, "another dense model to compare with"),
    "quantize": Argument(
        read_quantize, "bnb-int8, bnb-nf4 or torchao-int8, while loading", ("none",)
    ),
    "prefix_reuse": Argument(read_bool, "compute shared prompt prefixes once", default=True),
    "bos": Argument(
        partial(read_choice, choices=BOS),
        "BOS before windows and samples: auto, always or never",
        default="auto",
    ),
}

#: Arguments of lm-eval's ``hf`` model and of from_pretrained that are read here: there, any text
#: but an empty one would be true.
PASSED: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(
        (
            "trust_remote_code", "use_fast_tokenizer", "add_bos_token", "truncation",
            "logits_cache", "parallelize", "gptqmodel", "enable_thinking", "load_in_4bit",
            "load_in_8bit", "low_cpu_mem_usage", "local_files_only", "force_download",
            "use_safetensors", "ignore_mismatched_sizes", "offload_buffers", "weights_only",
            "disable_mmap", "use_kernels", "allow_all_kernels",
        ),
        read_bool,
    ),
    **dict.fromkeys(
        (
            "pretrained", "tokenizer", "peft", "delta", "subfolder", "gguf_file", "cache_dir",
            "offload_folder",
        ),
        _read_place,
    ),
    "batch_size": read_batch_size,
    "max_batch_size": partial(read_int, low=1),
    "max_length": partial(read_int, low=2),
    "prefix_token_id": partial(read_int, low=0),
    "device": read_device,
    "revision": read_text,
    "backend": partial(read_choice, choices=("default", "causal", "seq2seq")),
}  # fmt: skip
