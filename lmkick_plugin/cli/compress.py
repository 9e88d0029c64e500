# SPDX-License-Identifier: Apache-2.0
"""``lmkick compress``: compress a model and save it, without evaluating it.

Its options are the arguments of ``--model kick``, taken from their table: one that is added there
is an option here.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from compressors.errors import LmkickError
from lmkick_plugin.files import check_target
from lmkick_plugin.preflight.lm_eval_run import check_repeated
from lmkick_plugin.preflight.models import check_model_arguments
from lmkick_plugin.recipe.argument_table import ARGUMENTS
from lmkick_plugin.recipe.formats import FORMATS
from lmkick_plugin.recipe.methods import COMPRESSORS, METHODS
from lmkick_plugin.recipe.readers import read_bool
from lmkick_plugin.terminal import CommandError, quiet_libraries

__all__ = ["add_arguments", "main"]

#: Arguments that have an option under another name here, or decide about an evaluation only.
_ELSEWHERE = ("compressor", "save_compressed", "save_format")
#: Of lm-eval's ``hf`` model, those that say what is loaded and where; the rest by --model_args.
_LOADING = {
    "dtype": "float32, bfloat16, float16 or auto (default: as saved)",
    "device": "where to compute, such as cuda or cpu",
    "revision": "branch, tag or commit of a model of the Hub",
    "peft": "a LoRA adapter, which is merged first",
}
_SWITCHES = {
    "trust_remote_code": "run code that the model brings",
    "parallelize": "load to main memory; blocks visit the device one after the other",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments.

    Args:
        parser: The parser of ``lmkick compress``.
    """
    parser.description = (
        "Compress a model and save it as a folder that Hugging Face's libraries load. Nothing is"
        " evaluated; `lm_eval run --model kick --model_args pretrained=FOLDER` does that."
    )
    parser.allow_abbrev = False
    parser.add_argument("--pretrained", required=True, help="the model: a folder, or of the Hub")
    parser.add_argument("--output", required=True, help="the new folder (save_compressed)")
    parser.add_argument(
        "--format", default="dense", choices=FORMATS, help="of the folder; default: dense"
    )
    parser.add_argument("--compressor", required=True, choices=COMPRESSORS[1:], help="the method")
    recipe = parser.add_argument_group(
        "recipe", "as for --model kick; docs/compress.md has their table"
    )
    for name, argument in ARGUMENTS.items():
        partners = [method for method in argument.goes_with if method != "none"]
        evaluating = "none" in argument.goes_with and name != "data_dir"
        if name in _ELSEWHERE or evaluating or not partners:
            continue
        values: dict[str, Any] = {"metavar": name.upper()}
        if argument.read is read_bool:
            values = {"metavar": "true|false", "nargs": "?", "const": "true"}
        everywhere = len(partners) == len(COMPRESSORS) - 1
        limits = [] if everywhere else [f"with {', '.join(partners)}"]
        text = "; ".join([argument.help, *limits, *_defaults(name, partners)])
        recipe.add_argument(f"--{name}", help=text, **values)
    loading = parser.add_argument_group("model")
    for name, text in _LOADING.items():
        loading.add_argument(f"--{name}", help=text)
    for name, text in _SWITCHES.items():
        loading.add_argument(f"--{name}", action="store_true", help=text)
    loading.add_argument(
        "--model_args", metavar="NAME=VALUE,...", help="further arguments of lm-eval's hf model"
    )


def main(args: argparse.Namespace) -> int:
    """Run the command.

    Args:
        args: As declared by :func:`add_arguments`.

    Returns:
        Exit status 0.

    Raises:
        CommandError: Something is wrong with the request, the model or the disk.
    """
    from lmkick_plugin.loading.quantize_on_load import loading_needs

    if not args.output.strip():
        raise CommandError("--output: the value is empty. Give the new folder")
    arguments = _model_arguments(args)
    try:
        record = _compress(arguments)
    except LmkickError as error:
        # The arguments came as options of their own, two of them under other names.
        said = str(error).removeprefix("--model_args: ")
        for name, option in {"save_compressed=": "--output ", "save_format=": "--format "}.items():
            said = said.replace(name, option)
        raise CommandError(said) from error
    print(f"saved in {args.output} ({args.format}): {_outcome(record)}")
    needs = loading_needs(args.format)
    where = f", which needs {needs}" if needs else ""
    print(
        f"to evaluate it{where}: lm_eval run --model kick --model_args pretrained={args.output} ..."
    )
    return 0


def _compress(arguments: dict[str, Any]) -> dict[str, Any]:
    """Check the arguments, compress and save; return the record of the weights."""
    check_target(arguments["save_compressed"])
    check_model_arguments(arguments)

    import torch

    from lmkick_plugin.model import KickLM

    quiet_libraries()
    # lm-eval's own default is a GPU, there or not.
    arguments.setdefault("device", "cuda" if torch.cuda.is_available() else "cpu")
    record: dict[str, Any] = KickLM(**arguments).get_model_info()["kick"]
    return record


def _model_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of ``--model kick``."""
    from lm_eval.utils import simple_parse_args_string

    check_repeated(["--model_args", args.model_args or ""], ["--model_args"])
    further = dict(simple_parse_args_string(args.model_args or ""))
    given = {
        name: value
        for name, value in vars(args).items()
        if name not in ("output", "format", "model_args") and value not in (None, False)
    }
    doubled = sorted(set(further) & {*given, "save_compressed", "save_format"})
    if doubled:
        raise CommandError(f"--model_args names {doubled[0]}. Use --{doubled[0]} instead")
    return {**further, **given, "save_compressed": args.output, "save_format": args.format}


def _outcome(record: dict[str, Any]) -> str:
    parts = []
    if record["pattern"] is not None:
        parts.append(f"{record['achieved_sparsity']:.4f} of the matrices' weights are zero")
    if record["num_bits"] is not None:
        parts.append(f"{record['num_bits']} bits")
    error = record["layer_summary"]["error_mean"]
    if error is not None:
        parts.append(f"mean relative output error {error:.3g}")
    parts.append("from the cache" if record["from_cache"] else f"{record['seconds']:.1f} s")
    return ", ".join(parts)


def _defaults(name: str, partners: Sequence[str]) -> list[str]:
    """The default of an argument, and those of methods with one of their own."""
    default = ARGUMENTS[name].default
    if default is None:
        return []
    own = [
        f"{method}: {_shown(METHODS[method].defaults[name])}"
        for method in partners
        if name in METHODS[method].defaults
    ]
    return [f"default: {', '.join([_shown(default), *own])}"]


def _shown(default: object) -> str:
    if isinstance(default, tuple):
        return "+".join(map(str, default))
    return str(default).lower() if isinstance(default, bool) else str(default)
