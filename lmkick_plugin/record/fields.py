# SPDX-License-Identifier: Apache-2.0
"""The fields of the ``kick`` record, as columns of a table."""

from __future__ import annotations

from lmkick_plugin.recipe.methods import OWN_SETTINGS

__all__ = ["RECORD_FIELDS"]

RECORD_FIELDS = (
    "compressor",
    "pattern",
    "requested_sparsity",
    "achieved_sparsity",
    "num_bits",
    "group_size",
    "symmetric",
    "number_format",
    *OWN_SETTINGS,
    "true_sequential",
    "allocation",
    "owl_lambda",
    "owl_threshold",
    "calibration",
    "calibration_sources",
    "nsamples",
    "seqlen",
    "seed",
    "bos",
    "base_model",
    "base_revision",
    "revision",
    "subfolder",
    "adapter",
    "earlier",
    "weights_sha256",
    "total_parameters",
    "nonzero_parameters",
    "bytes_dense",
    "bytes_best_format",
    "seconds",
    "device",
    "dtype",
    "chat_template",
    "truncated_prompts",
    "versions",
    "prefix_reuse",
    "save_format",
    "from_cache",
    "ragged_matrices",
    "layer_summary",
    "checkpoint",
    "profile",
)
"""All but ``layers``, which is a separate table."""
