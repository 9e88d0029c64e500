# SPDX-License-Identifier: Apache-2.0
"""``lmkick profile MODEL|RESULTS``: speed and memory of a model on this device."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressors.files import write_atomically
from lmkick_plugin.report.formatting import plural
from lmkick_plugin.terminal import (
    CommandError,
    emit,
    plain,
    quiet_libraries,
    read_path,
    render_table,
)

if TYPE_CHECKING:
    from lmkick_plugin.profile.measure import Profile, Spread

__all__ = ["add_arguments", "main"]

# Of a run's arguments, those that say what is loaded.
_IDENTITY = (
    "quantize", "revision", "peft", "subfolder", "gguf_file", "delta", "tokenizer",
    "trust_remote_code",
)  # fmt: skip
_SIZES = ("batch_size", "prompt_tokens", "new_tokens", "repeats")
_LARGEST = 1_000_000  # of each size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments.

    Args:
        parser: The parser of ``lmkick profile``.
    """
    parser.description = (
        "Measure tokens per second of prefill and decode, time to first token, memory and bytes, "
        "by a plain greedy loop on this device. Takes everything `--model kick` loads: dense "
        "checkpoints, those that lmkick saved, and packed ones (bitsandbytes, torchao, "
        "compressed-tensors, GPTQ). Of results, the model that was evaluated: its saved folder, "
        "else its dense weights, which cost the same as pruned ones stored dense."
    )
    size = partial(parser.add_argument, type=int, metavar="N")
    parser.add_argument("model", metavar="MODEL|RESULTS", help="name, folder, or results")
    size("--batch_size", default=1, help="sequences at a time (default: %(default)s)")
    size("--prompt_tokens", default=128, help="tokens per prompt (default: %(default)s)")
    size("--new_tokens", default=32, help="new tokens per prompt (default: %(default)s)")
    size("--repeats", default=5, help="timed runs, after one that is not (default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda:0, ... (default: a GPU where there is one)")
    parser.add_argument("--dtype", default="auto", help="of dense weights (default: %(default)s)")
    parser.add_argument(
        "--model_args", default="", metavar="NAME=VALUE,...", help="more, such as quantize=bnb-int8"
    )
    parser.add_argument(
        "--semi_structured",
        action="store_true",
        help="multiply 2:4 weights by torch's sparse kernels (CUDA, 16 bits)",
    )
    parser.add_argument("--json", type=read_path, metavar="FILE", help="write everything there")


def main(args: argparse.Namespace) -> int:
    """Run the command.

    Args:
        args: As declared by :func:`add_arguments`.

    Returns:
        Exit status 0.

    Raises:
        LmkickError: The model cannot be loaded, or a size is out of range.
    """
    for name in _SIZES:
        if getattr(args, name) > _LARGEST:
            raise CommandError(f"--{name} {getattr(args, name)}: expected at most {_LARGEST:,}.")
    from lmkick_plugin.files import check_file
    from lmkick_plugin.preflight.models import check_model

    if args.json is not None:
        check_file("--json", args.json)
    arguments, note = _arguments(args)

    import torch

    from lmkick_plugin.profile.measure import check_sizes, profile_model
    from lmkick_plugin.profile.semi_structured import check_semi_structured, to_semi_structured

    arguments.setdefault("device", "cuda" if torch.cuda.is_available() else "cpu")
    sizes = {name: getattr(args, name) for name in _SIZES}
    check_sizes(check_model(arguments), **sizes)
    if args.semi_structured:
        check_semi_structured(arguments["device"], args.dtype)

    from lmkick_plugin.model import KickLM

    quiet_libraries()
    lm = KickLM(**arguments)
    storage = _storage(lm.get_model_info()["kick"])
    if args.semi_structured:
        if storage != "dense":
            raise CommandError(
                f"--semi_structured: {plain(args.model)} stores its weights as {plain(storage)}. "
                "Name a folder whose 2:4 weights are stored dense (--format dense)."
            )
        storage = "{} of {} matrices semi-structured 2:4".format(*to_semi_structured(lm.model))
    folder = Path(str(lm.config.name_or_path))
    found = profile_model(
        lm.model,
        **sizes,
        folder=folder if folder.is_dir() else None,
        storage=storage,
    )
    if args.json is not None:
        text = json.dumps({"model": args.model, "note": note, **found.to_record()}, indent=2)
        write_atomically(args.json, text + "\n")
    emit(_text(args.model, found, note))
    return 0


def _arguments(args: argparse.Namespace) -> tuple[dict[str, Any], str | None]:
    """Arguments of ``KickLM``, and a note on the model that a results file names."""
    from lm_eval.utils import simple_parse_args_string

    given: dict[str, Any] = dict(simple_parse_args_string(args.model_args))
    if "pretrained" in given:
        raise CommandError("--model_args names pretrained. Give the model as MODEL alone")
    given["dtype"] = args.dtype
    if args.device is not None:
        given["device"] = args.device
    name, note = args.model, None
    path = Path(args.model.partition("@")[0])
    if path.suffix == ".json" or (path.is_dir() and not (path / "config.json").is_file()):
        name, note, more = _of_results(args.model)
        given = {**more, **given}
    return {**given, "pretrained": name}, note


def _of_results(selector: str) -> tuple[str, str | None, dict[str, Any]]:
    from lmkick_plugin.results.runs import load_run

    run = load_run(selector)
    config = run.files[0].mapping("config")
    arguments = config.get("model_args")
    if isinstance(arguments, str):
        from lm_eval.utils import simple_parse_args_string

        arguments = simple_parse_args_string(arguments)
    if not isinstance(arguments, dict) or "pretrained" not in arguments:
        raise CommandError(
            f"{plain(selector)}: these results do not say which model they are of. Name the model."
        )
    saved = arguments.get("save_compressed")
    if isinstance(saved, str) and Path(saved).is_dir():
        return saved, f"the folder that the run saved: {saved}", {}
    kept = {name: arguments[name] for name in _IDENTITY if name in arguments}
    note = None
    if arguments.get("compressor", "none") != "none":
        note = (
            "the dense weights: the run's own were not saved, and weights stored dense cost the "
            "same however many are zero or rounded"
        )
    return str(arguments["pretrained"]), note, kept


def _storage(record: dict[str, Any]) -> str:
    checkpoint = record.get("checkpoint")
    if isinstance(checkpoint, dict):
        return str(checkpoint.get("storage") or checkpoint.get("format") or "dense")
    return "dense"


def _text(model: str, found: Profile, note: str | None) -> str:
    def rate(spread: Spread) -> list[str]:
        return [f"{value:,.1f} tokens/s" for value in (spread.median, spread.low, spread.high)]

    def once(value: int | None) -> list[str]:
        return ["not known" if value is None else f"{value / 1e6:,.1f} MB", "", ""]

    spread = found.first_token
    rows = [
        ["prefill", *rate(found.prefill)],
        ["decode", *rate(found.decode)],
        ["first token", *(f"{1e3 * v:,.1f} ms" for v in (spread.median, spread.low, spread.high))],
        ["peak memory", *once(found.peak_bytes)],
        ["weights in memory", *once(found.memory_bytes)],
        ["weights on disk", *once(found.disk_bytes)],
    ]
    threads = "" if found.threads is None else f", {plural(found.threads, 'thread')}"
    lines = [
        f"{plain(model)}: {found.storage}, {found.dtype}, {plain(found.device)}{threads}",
        f"batch of {found.batch_size}, {found.prompt_tokens} prompt and {found.new_tokens} new "
        f"tokens, {plural(found.repeats, 'repeat')} after a warm-up",
        *([f"measured: {plain(note)}"] if note else []),
        "",
        render_table(["", "median", "lowest", "highest"], rows),
    ]
    return "\n".join(lines)
