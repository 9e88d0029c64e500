# SPDX-License-Identifier: Apache-2.0
"""Compression of a loaded model: calibration text, caches, the saved checkpoint."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compressors.defaults import CACHE_GB
from compressors.errors import SettingsError
from lmkick_plugin.data.calibration import PreparedCalibration, prepare
from lmkick_plugin.data.sources import data_directory
from lmkick_plugin.loading.dense_source import DenseSource
from lmkick_plugin.loading.fits import check_calibration_size, check_shapes
from lmkick_plugin.loading.model_checks import context_length
from lmkick_plugin.loading.placement import merge_adapter, refuse_offloaded
from lmkick_plugin.recipe.readers import is_unset
from lmkick_plugin.record.quantized_weights import count_zeros
from lmkick_plugin.record.weights import WeightSurvey, require_finite, survey_weights
from lmkick_plugin.record.zero_pattern import ZeroCount

if TYPE_CHECKING:
    from compressors import CompressionReport, Compressor
    from lmkick_plugin.checkpoints.detect import Recognised
    from lmkick_plugin.recipe.recipe import Recipe

__all__ = ["Compression", "check_before_load"]

logger = logging.getLogger(__name__)


def check_before_load(recipe: Recipe, config: Any, passed: Mapping[str, Any]) -> None:
    """Refuse a recipe that does not fit the model's shapes, its dtype or this machine.

    Args:
        recipe: What is to be done.
        config: The model's config.
        passed: The arguments for lm-eval's ``hf`` model.

    Raises:
        SettingsError: The message says what would do.
        UnsupportedModelError: A pattern or group does not divide the model's matrices.
    """
    storage = _storage(recipe)
    dtype = _dtype(config, passed)
    others = check_shapes(recipe, config, storage, dtype)
    check_calibration_size(recipe, config)
    if storage in (None, "dense") or recipe.bits is None:
        return
    from lmkick_plugin.checkpoints.format_fit import check_dtype

    number_format = recipe.number_format or "int"
    check_dtype(storage, dtype, recipe.bits, bool(recipe.symmetric), number_format, others)


def _dtype(config: Any, passed: Mapping[str, Any]) -> torch.dtype:
    """Dtype that the model will be loaded in."""
    dtype: Any = passed.get("dtype")
    if is_unset(dtype) or dtype == "auto":
        inner = getattr(config, "text_config", None) or config
        dtype = getattr(config, "dtype", None) or getattr(inner, "dtype", None) or torch.float32
    found: torch.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return found


class Compression:
    """One compression of one model.

    Attributes:
        report: What was done to each matrix; None before.
        calibration_shape: Samples and tokens of each that were used; None without calibration.
        calibration_sources: Where their text came from; None without calibration.
        weights: What the compressed weights are; None before.
    """

    @classmethod
    def of(cls, recipe: Recipe, source: DenseSource) -> Compression | None:
        """The compression that a recipe asks for; None for ``compressor=none``."""
        compressor = recipe.build_compressor()
        return None if compressor is None else cls(recipe, compressor, source)

    def __init__(self, recipe: Recipe, compressor: Compressor, source: DenseSource) -> None:
        """Store the settings; nothing is computed.

        Args:
            recipe: What is to be done.
            compressor: Its method.
            source: Of the dense model; may hold calibration text already.
        """
        self._recipe = recipe
        self._compressor = compressor
        self._source = source
        self.report: CompressionReport | None = None
        self.calibration_shape: tuple[int, int] | None = None
        self.calibration_sources: tuple[dict[str, Any], ...] | None = None
        self.weights: WeightSurvey | None = None

    def load_calibration(self, tokenizer: Any, config: Any) -> PreparedCalibration | None:
        """Calibration text, before the model is loaded; None where the method needs none.

        Args:
            tokenizer: The model's.
            config: The model's.

        Raises:
            SettingsError: Text is missing or too short.
        """
        recipe = self._recipe
        if recipe.calibration is None:
            return None
        folder = data_directory(recipe.data_dir)
        size: dict[str, Any] = {"nsamples": recipe.nsamples, "seqlen": recipe.seqlen}

        def read() -> PreparedCalibration:
            return prepare(
                str(recipe.calibration),
                tokenizer,
                **size,
                seed=recipe.seed or 0,
                max_length=context_length(config, tokenizer),
                data_dir=None if folder is None else str(folder),
                bos=recipe.bos,
                progress=_is_main_process(),
            )

        what = ["calibration", recipe.calibration, *size.values(), recipe.seed, recipe.bos]
        found: PreparedCalibration = self._source.once(what, read)
        return found

    def run(
        self,
        model: Any,
        tokenizer: Any,
        calibration: PreparedCalibration | None,
        *,
        device: torch.device,
        files: Sequence[Path] = (),
        recognised: Recognised | None,
        record: Callable[[WeightSurvey], Mapping[str, Any]],
    ) -> Any:
        """Compress a model in place, and save it where that was asked for.

        Args:
            model: The dense model; an adapter is merged first.
            tokenizer: Saved with it.
            calibration: What :meth:`load_calibration` returned.
            device: Where to compress, unless a device map has spread the model over several.
            files: Copied into the saved checkpoint.
            recognised: An earlier compression of the checkpoint; lost zeros are logged.
            record: Makes the ``kick`` record of the compressed weights.

        Returns:
            The compressed model.

        Raises:
            UnsupportedModelError: Weights are offloaded, or the adapter cannot be merged.
            SettingsError: The result cannot be saved as asked.
        """
        from compressors import compress_model

        if recognised is not None:
            logger.warning("The checkpoint is already compressed; compressing it again.")
        main_process = _is_main_process()
        spread = len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1
        self._source.about_to_change(model)
        if hasattr(model, "peft_config"):
            model = merge_adapter(model)
        refuse_offloaded(model)
        tokens = None
        if calibration is not None:
            tokens = calibration.tokens(self._writer(model, tokenizer, progress=main_process))
            self.calibration_sources = calibration.sources
            self.calibration_shape = (int(tokens.shape[0]), int(tokens.shape[1]))
        settings = self._driver_settings(main_process)
        self.report = compress_model(
            model,
            self._fitted(model),
            calibration=tokens,
            device=None if spread else device,
            true_sequential=bool(self._recipe.true_sequential),
            progress=main_process,
            **self._recipe.build_allocation(),
            **settings,
        )
        if main_process:
            _log_outcome(self.report)
        require_finite(model, "the compressed model")
        self.weights = survey_weights(model)
        if recognised is not None and recognised.zeros is not None:
            _log_lost(recognised.zeros, model)
        if main_process:
            self._save(model, tokenizer, settings.get("grids"), record(self.weights), files)
        return model

    def require_unchanged(self, evaluated: WeightSurvey) -> None:
        """Stop where the weights to be evaluated are not the compressed ones.

        Args:
            evaluated: Survey of the weights to be evaluated.

        Raises:
            RuntimeError: Their hashes differ.
        """
        if self.weights is not None and self.weights.sha256 != evaluated.sha256:
            raise RuntimeError(
                f"The weights changed between compression ({self.weights.sha256}) and evaluation "
                f"({evaluated.sha256}). Tied weights are the usual cause: check the model's "
                "tie_word_embeddings against its checkpoint."
            )

    def _writer(
        self, model: Any, tokenizer: Any, *, progress: bool
    ) -> Callable[[int, int, int], Tensor]:
        """Writer of calibration text by the model while it is dense."""

        def write(nsamples: int, seqlen: int, seed: int) -> Tensor:
            from lmkick_plugin.data.calibration_generated import write_text

            # Not prefix_token_id: lm-eval knows that only once the model is there.
            ids = (tokenizer.bos_token_id, tokenizer.eos_token_id)
            start = next((token for token in ids if token is not None), None)
            if start is None:
                raise SettingsError(
                    "calibration=self: the tokenizer has neither BOS nor EOS to begin a text "
                    "with. Use another calibration."
                )
            written: Tensor = self._source.once(
                ["self", nsamples, seqlen, seed],
                lambda: write_text(model, start, nsamples, seqlen, seed, progress=progress),
            )
            return written

        return write

    def _driver_settings(self, main_process: bool) -> dict[str, Any]:
        """Arguments of ``compress_model`` for caches and for grids, which packed formats need."""
        recipe = self._recipe
        settings: dict[str, Any] = {"resume_dir": recipe.resume_dir}
        if recipe.compress_cache is not None:
            settings["compress_cache"] = recipe.compress_cache
            settings["compress_cache_gb"] = recipe.compress_cache_gb or CACHE_GB
        if main_process and _storage(recipe) not in (None, "dense"):
            settings["grids"] = {}
        return settings

    def _fitted(self, model: Any) -> Compressor:
        """The method with settings that the save format can hold."""
        storage = _storage(self._recipe)
        if storage is None or self._recipe.save_compressed is None:
            return self._compressor
        from lmkick_plugin.checkpoints.format_fit import prepare as fit
        from lmkick_plugin.checkpoints.write import check_room

        fitted = fit(self._compressor, model, storage)
        check_room(model, self._recipe.save_compressed, storage, fitted)
        return fitted

    def _save(
        self,
        model: Any,
        tokenizer: Any,
        grids: Any,
        record: Mapping[str, Any],
        files: Sequence[Path],
    ) -> None:
        storage = _storage(self._recipe)
        if storage is None or self._recipe.save_compressed is None:
            return
        from lmkick_plugin.checkpoints.write import save

        save(
            model,
            self._recipe.save_compressed,
            tokenizer=tokenizer,
            storage=storage,
            grids=grids,
            record=record,
            extra_files=files,
        )


def _log_outcome(report: CompressionReport) -> None:
    """Log the outcome in two lines, and the matrices that fell back to another method."""
    summary = report.summary()
    errors = [
        "none" if value is None else f"{value:.4f}"
        for value in (summary["mean_error"], summary["worst_error"])
    ]
    logger.info(
        "%s: %.2f %% of %d weights in %d matrices are zero; mean output error %s, worst %s.",
        report.method, 100 * report.sparsity, report.parameters, summary["matrices"],
        *errors,
    )  # fmt: skip
    logger.info(
        "%.1f MB as evaluated, %.1f MB in the best known format; %.1f s.",
        report.bytes_dense / 1e6, report.bytes_best_format / 1e6, report.seconds,
    )  # fmt: skip
    fell_back = [layer.note for layer in report.layers if layer.note is not None]
    if fell_back:
        logger.warning(
            "%d of %d matrices fell back to another method (%s, ...): too few calibration tokens "
            "reached them. Raise nsamples or seqlen.",
            len(fell_back), len(report.layers), fell_back[0],
        )  # fmt: skip


def _log_lost(before: ZeroCount, model: Any) -> None:
    """Log zeros and patterns of an earlier compression that were lost."""
    after, _ = count_zeros(model)
    if after is None:
        return
    if before.pattern not in (None, after.pattern):
        logger.warning(
            "The checkpoint's %s pattern is lost: %.1f %% of its weights were zero, %.1f %% are.",
            before.pattern, 100 * before.sparsity, 100 * after.sparsity,
        )  # fmt: skip
    elif after.zeros < before.zeros:
        logger.warning(
            "%d of the checkpoint's %d zeros are lost (%.1f %% of its weights were zero).",
            before.zeros - after.zeros, before.zeros, 100 * before.sparsity,
        )  # fmt: skip


def _is_main_process() -> bool:
    """Whether this process shows progress and saves."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def _storage(recipe: Recipe) -> str | None:
    """Save format; None where the model is not saved."""
    return None if recipe.save_compressed is None else recipe.save_format or "dense"
