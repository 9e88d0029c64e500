# SPDX-License-Identifier: Apache-2.0
"""Output error of GPTQ's matrices on text that it was not calibrated on, beside rounding's.

    python -m benchmarks.layer_error MODEL --data DIR --blocks 3

GPTQ (4 bits, groups of 64) is calibrated on 16 samples of 1,024 tokens of web text, on the dense
model's inputs. The relative squared error of each matrix's output is then taken on that text, on
other web text (documents too short for a sample) and on WikiText-2, 4 x 1,024 tokens each. One line
of JSON per matrix, then geometric means of the ratio to rounding.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from compressors import GPTQ, RTN, load_calibration
from compressors.statistics import Hessian, NoStatistic
from tests import oracles

__all__ = ["MATRICES", "METHODS"]

MATRICES = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
_GPTQ = GPTQ(num_bits=4, group_size=64)
#: Methods by name; what is said after the method's name is changed. ``later``: calibrated without
#: the first four tokens of each sample, where activations are largest. Beside them the plain loop
#: of the tests in float64, as a control of the arithmetic.
METHODS = {
    "gptq": _GPTQ,
    "gptq group-aware": replace(_GPTQ, act_group_aware=True, static_groups=False),
    "gptq released order": replace(_GPTQ, act_order=False, static_groups=False),
    "gptq damping 0.1": replace(_GPTQ, dampening_frac=0.1),
    "gptq later": _GPTQ,
}
_FIRST, _LENGTH, _ROWS = 4, 1024, 4


def _texts(tokenizer: Any, data: Path) -> dict[str, Tensor]:
    def rows(path: Path) -> list[str]:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["text"] for line in lines]

    def cut(ids: Sequence[int]) -> Tensor:
        return torch.tensor(ids[: _ROWS * _LENGTH]).view(_ROWS, _LENGTH)

    calibration = load_calibration(
        "c4", tokenizer, nsamples=16, seqlen=_LENGTH, data_dir=data, progress=False
    )
    web = [tokenizer(text)["input_ids"] for text in rows(data / "web_text/train.jsonl")[:400]]
    break_ = tokenizer("\n\n")["input_ids"]
    short = [token for ids in web if len(ids) < _LENGTH for token in (*ids, *break_)]
    wiki = "\n\n".join(rows(data / "wikitext/test.jsonl"))[: 12 * _ROWS * _LENGTH]
    return {
        "calibration": calibration,
        "web": cut(short),
        "wikitext": cut(tokenizer(wiki)["input_ids"]),
    }


@torch.no_grad()
def _hessians(model: Any, rows: Tensor) -> tuple[dict[str, Hessian], dict[str, Hessian]]:
    """Of each matrix's inputs: all tokens, and without the first of each row."""
    every: dict[str, Hessian] = {}
    later: dict[str, Hessian] = {}

    def look(name: str) -> Any:
        def hook(_: Any, arguments: tuple[Tensor, ...]) -> None:
            inputs = arguments[0][0]
            for found, part in (every, inputs), (later, inputs[_FIRST:]):
                found.setdefault(name, Hessian(inputs.shape[-1])).update(part)

        return hook

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(look(name)) for name in _names(model)
    ]
    for row in rows:
        model.model(input_ids=row[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return every, later


def _names(model: Any) -> list[str]:
    blocks = range(len(model.model.layers))
    return [f"model.layers.{block}.{name}" for block in blocks for name in MATRICES]


def _error(weight: Tensor, other: Tensor, hessian: Tensor) -> float:
    lost = weight - other
    return float(((lost @ hessian) * lost).sum() / ((weight @ hessian) * weight).sum())


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--blocks", type=int, default=3)
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    model.model.layers = model.model.layers[: options.blocks]
    found = {
        name: _hessians(model, rows)
        for name, rows in _texts(AutoTokenizer.from_pretrained(options.model), options.data).items()
    }
    ratios: dict[tuple[str, str, str], list[float]] = {}
    for name in _names(model):
        weight = model.get_submodule(name).weight.detach()
        rounded = RTN(num_bits=4, group_size=64).compress(weight, NoStatistic(weight.shape[1]))
        every, later = found["calibration"]
        traces = [stats[name].diagonal.sum() * stats[name].tokens for stats in (every, later)]
        line: dict[str, Any] = {"matrix": name, "first": round(1 - float(traces[1] / traces[0]), 4)}
        compressed = {"rtn": rounded.weight}
        for method, recipe in METHODS.items():
            stats = later if method.endswith("later") else every
            compressed[method] = recipe.compress(weight, stats[name]).weight
        compressed["loop in float64"] = oracles.gptq(
            weight, every[name].matrix, num_bits=4, group_size=64, act_order=True,
            static_groups=True, dtype=torch.float64,
        )  # fmt: skip
        for text, (hessians, _) in found.items():
            matrix = hessians[name].matrix
            errors = {method: _error(weight, w, matrix) for method, w in compressed.items()}
            line[text] = {method: round(error, 5) for method, error in errors.items()}
            kind = name.rpartition(".")[2]
            for method, error in errors.items():
                ratios.setdefault((method, kind, text), []).append(error / errors["rtn"])
        print(json.dumps(line), flush=True)
    for (method, kind, text), values in ratios.items():
        print(f"{method}, {kind}, {text}: {geometric_mean(values):.2f} of rounding's error")


if __name__ == "__main__":
    main()
