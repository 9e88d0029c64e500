# SPDX-License-Identifier: Apache-2.0
"""Model card of a saved folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lmkick_plugin
from lmkick_plugin import bundled
from lmkick_plugin.recipe.methods import OWN_SETTINGS
from lmkick_plugin.record.fields import calibration_text

__all__ = ["model_card"]

#: Rows of the card's table: key of the record, and what it is called.
_ROWS = {
    "compressor": "method",
    "pattern": "pattern",
    "requested_sparsity": "sparsity asked for",
    "achieved_sparsity": "zeros in the compressed matrices",
    "number_format": "number format",
    "num_bits": "bits of a weight",
    "group_size": "input columns per scale (-1: one scale per row)",
    "symmetric": "symmetric grid",
    **{name: name for name in OWN_SETTINGS},  # of those without a label below
    "act_order": "columns by falling Hessian diagonal",
    "act_group_aware": "group by group",
    "static_groups": "grids found beforehand",
    "dampening_frac": "damping of the Hessian",
    "block_size": "columns per block",
    "true_sequential": "true sequential",
    "wanda_variant": "Wanda's variant",
    "allocation": "sparsity by block",
    "owl_lambda": "half of the spread between blocks",
    "owl_threshold": "outliers: this many times the mean score",
    "calibration": "calibration text",
    "nsamples": "calibration samples",
    "seqlen": "tokens of each",
    "seed": "seed",
}

_LOADING = {
    "dense": (
        "Plain `transformers` loads it, and what reads its folders (`lm_eval --model hf`, vLLM):",
        "",
    ),
    "gptq": (
        "`transformers` loads it where `gptqmodel` and `optimum` are installed (`pip install"
        " 'lmkick[gptq]'`):",
        "It is in the GPTQ checkpoint format, which vLLM and SGLang are made to read too; lmkick's"
        " tests do not run those.",
    ),
    "compressed-tensors": (
        "`transformers` loads it where `compressed-tensors` is installed (`pip install"
        " 'lmkick[compressed-tensors]'`):",
        "It is in the format `pack-quantized`, which vLLM is made to read too (not every number of"
        " bits); lmkick's tests do not run it.",
    ),
}


def model_card(record: Mapping[str, Any], storage: str, size: int, custom_code: bool) -> str:
    """The text of ``README.md``.

    Args:
        record: The ``kick`` record.
        storage: How weights are stored.
        size: Bytes of the files of weights.
        custom_code: Whether the model has custom code.
    """
    base = str(record["base_model"])
    local = base == bundled.MODEL_NAME or Path(base).exists()
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    if not local:
        # JSON is YAML: a name cannot end its line.
        lines += [f"base_model: {json.dumps(base)}"]
    lines += ["tags:", "- lmkick", f"- {storage}", "---", ""]
    shown = _plain(Path(base).name if local else base)
    lines += [f"# {shown}, compressed with {record['compressor']}", ""]
    revision = record.get("base_revision")
    lines += [
        f"Made by lmkick {lmkick_plugin.__version__} from"
        f" `{shown}`{f' at {_plain(revision)}' if revision else ''}. `kick.json` has the whole"
        " record, with what happened to each matrix. The licence of the base model applies.",
        "",
        "| recipe | |",
        "| --- | --- |",
    ]
    recipe = {**record, "calibration": calibration_text(record) or None}
    lines += [
        f"| {label} | {_plain(recipe[key])} |"
        for key, label in _ROWS.items()
        if recipe.get(key) is not None
    ]
    lines += ["", "| size | |", "| --- | --- |"]
    lines += [
        f"| parameters | {record['total_parameters']:,} |",
        f"| of them not zero | {record['nonzero_parameters']:,} |",
        f"| bytes of the weights' files | {size:,} |",
        f"| bytes as evaluated, dense | {record['bytes_dense']:,} |",
        f"| bytes in the best known format | {record['bytes_best_format']:,} |",
        f"| dtype | {record['dtype']} |",
        "",
    ]
    lines += _how_to_load(storage, custom_code)
    lines += _not_claimed(record, storage)
    return "\n".join(lines) + "\n"


def _how_to_load(storage: str, custom_code: bool) -> list[str]:
    before, after = _LOADING[storage]
    extra = ", trust_remote_code=True" if custom_code else ""
    lines = [
        "## Load",
        "",
        before,
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER", dtype="auto"{extra})',
        f'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER"{extra})',
        "```",
        "",
        "Evaluate it: `lm_eval run --model kick --model_args pretrained=THIS_FOLDER --tasks"
        " 'kick_*'`.",
        "",
    ]
    return [*lines, after, ""] if after else lines


def _not_claimed(record: Mapping[str, Any], storage: str) -> list[str]:
    lines = ["## Not claimed", "", "- That its answers are as good as the base model's: evaluate."]
    if record.get("achieved_sparsity"):
        lines.append(
            "- Any speed-up: pruned weights are stored as zeros, and take the room of any other."
        )
    if storage == "dense" and record.get("num_bits") is not None:
        lines.append("- Any saving of memory: quantized weights are stored dequantized.")
    if storage != "dense":
        lines.append(
            "- Equal last bits in every program: the dequantized weights are exactly those that"
            " were evaluated, while kernels differ in how they multiply by them."
        )
    return lines


def _plain(value: object) -> str:
    """Escape a value for a line or a table cell."""
    text = "".join(char if char.isprintable() else " " for char in str(value))
    return re.sub(r"[`|<>\[\]]", "'", text)
