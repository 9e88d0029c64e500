# SPDX-License-Identifier: Apache-2.0
"""Check the arguments of ``--model kick``, alone and against the model's files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmkick_plugin import bundled
from lmkick_plugin.recipe.readers import is_unset
from lmkick_plugin.terminal import CommandError

__all__ = ["check_model", "check_model_arguments", "check_stored"]


def check_model_arguments(arguments: Mapping[str, Any]) -> None:
    """Parse the arguments of ``--model kick`` and build its compressor.

    Args:
        arguments: Of the model.

    Raises:
        CommandError: What is wrong.
    """
    from lmkick_plugin.data.calibration import check_text
    from lmkick_plugin.loading.checks import check_adapter, check_placement
    from lmkick_plugin.loading.precompressed import check_gguf
    from lmkick_plugin.loading.quantize_on_load import check_quantize
    from lmkick_plugin.recipe.arguments import parse_arguments
    from lmkick_plugin.recipe.pretrained import check_pretrained

    try:
        recipe, passed = parse_arguments(dict(arguments))
        check_gguf(arguments.get("pretrained"), passed)
        check_pretrained(arguments.get("pretrained"))
        check_placement(passed)
        check_adapter(passed)
        recipe.build_compressor()
        if recipe.calibration is not None:
            check_text(recipe.calibration, recipe.data_dir)
        if recipe.quantize is not None:
            check_quantize(recipe.quantize, None, passed, prebuilt=False)
        _ = recipe.seed  # several seeds are for a sweep
    except (ValueError, TypeError) as error:
        raise CommandError(f"--model_args: {error}") from error


def check_model(arguments: Mapping[str, Any], config: Any = None, *, chat: bool = False) -> Any:
    """Check the arguments of ``--model kick`` against the model's config and tokenizer.

    Args:
        arguments: Of the model.
        config: The model's, where it was read before; then its tokenizer was, too.
        chat: Whether prompts go through the tokenizer's chat template.

    Returns:
        The model's config; it is read from the Hub, too, but for models of this machine alone.

    Raises:
        SettingsError: What is wrong (``CommandError``, ``UnsupportedModelError`` likewise).
    """
    from lmkick_plugin.data.calibration import check_text
    from lmkick_plugin.loading.checks import check_hf_arguments
    from lmkick_plugin.loading.compress import check_before_load
    from lmkick_plugin.loading.model_checks import check_model_kind
    from lmkick_plugin.recipe.arguments import parse_arguments

    recipe, passed = parse_arguments(arguments)
    if config is None:
        check_model_arguments(arguments)
        config = _read_config(str(arguments["pretrained"]), passed, chat=chat)
        check_hf_arguments(passed, config, prebuilt=False)
        check_model_kind(recipe, config, "causal", passed)
    if recipe.calibration is not None:
        check_text(recipe.calibration, recipe.data_dir)
    check_before_load(recipe, config, passed)
    return config


def check_stored(arguments: Mapping[str, Any], config: Any) -> None:
    """Look into the weights of a model and its reference, for runs that share them.

    Args:
        arguments: Of the model, checked by :func:`check_model`.
        config: What that returned.

    Raises:
        SettingsError: Files are damaged or tensors missing, or the reference is over other tokens
            or of a shorter context.
        NumericalError: Weights are NaN or infinite.
    """
    from transformers import AutoTokenizer

    from lmkick_plugin.loading.checks import which_files
    from lmkick_plugin.loading.precompressed import check_stored_weights
    from lmkick_plugin.loading.reference import check_reference
    from lmkick_plugin.recipe.arguments import parse_arguments

    recipe, passed = parse_arguments(arguments)
    pretrained = str(arguments["pretrained"])
    check_stored_weights(pretrained, config, passed)
    if recipe.reference is not None:
        name = passed.get("tokenizer") or bundled.model_folder(pretrained)
        tokenizer = AutoTokenizer.from_pretrained(name, **which_files(passed))
        check_reference(recipe.reference, tokenizer, config, passed)


def _read_config(pretrained: str, passed: Mapping[str, Any], *, chat: bool) -> Any:
    """Read a model's config; of a folder, its tokenizer as well."""
    from transformers import AutoConfig, AutoTokenizer

    from lmkick_plugin.loading.checks import config_error, which_files
    from lmkick_plugin.loading.model_checks import (
        check_template,
        check_tokenizer,
        tokenizer_error,
    )

    folder = bundled.model_folder(pretrained)
    options = which_files(passed)
    try:
        config = AutoConfig.from_pretrained(folder, **options)
    except Exception as error:  # transformers raises anything for a file of other contents
        raise config_error(pretrained, error) from error
    if Path(folder).expanduser().is_dir() and is_unset(passed.get("tokenizer")):
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        except Exception as error:
            raise tokenizer_error(pretrained, error) from error
        check_tokenizer(tokenizer, config, pretrained, passed)
        if chat:
            check_template(tokenizer, pretrained)
    return config
