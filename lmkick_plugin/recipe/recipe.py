# SPDX-License-Identifier: Apache-2.0
"""Recipe: how a model is compressed before evaluation, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compressors.errors import SettingsError
from lmkick_plugin.recipe.methods import METHODS

if TYPE_CHECKING:
    from compressors import NM, Compressor, Unstructured

__all__ = ["Recipe", "split_pattern"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Checked settings of a compression; None where a setting does not apply.

    Attributes:
        compressor: One of :data:`lmkick_plugin.recipe.methods.COMPRESSORS`.
        sparsity: Share of weights to zero, for unstructured pruning.
        pattern: ``unstructured`` or ``N:M`` (N kept of every M).
        bits: Bits of a weight, 2 to 8.
        group_size: Input columns that share a scale; -1: one group a row.
        symmetric: Whether the grid is symmetric.
        number_format: ``int``, ``fp8``, ``mxfp4`` or ``nvfp4``; bits, groups and symmetry of the
            others are the format's.
        act_order: Whether columns are quantized in order of their activations.
        act_group_aware: Whether that order keeps groups together.
        static_groups: Whether group scales are fixed before the column pass.
        grid_points: Exponents that AWQ tries.
        clip: Whether AWQ clips groups.
        duo_scaling: Whether AWQ scales by the weights too.
        wanda_variant: Wanda's variant of its appendix.
        dampening_frac: Damping of the Hessian (``percdamp`` in GPTQ's code).
        block_size: Columns of one lazy update.
        true_sequential: Compress q/k/v, then o, then gate/up, then down.
        allocation: How the sparsity is shared out between blocks: ``owl`` or ``file:PATH``; None
            is uniform.
        owl_lambda: Half of the spread of sparsities between blocks.
        owl_threshold: Multiple of the mean score from which on a weight is an outlier.
        calibration: Where the calibration text comes from.
        nsamples: Calibration samples.
        seqlen: Tokens of a sample.
        seeds: Seeds of calibration (and of random pruning); more than one asks for repetition.
        data_dir: Folder of local data files; not part of the recipe's identity.
        resume_dir: Where finished blocks are kept; not part of the recipe's identity.
        save_compressed: Where the compressed model is saved; not part of the recipe's identity.
        save_format: How; packed formats round scales to what they store, so it is part of it.
        compress_cache: Where compressed weights are kept for other runs; not part of it.
        compress_cache_gb: Most that folder may take, in GB; not part of it.
        reference: The model that divergence is measured against, where it is not the model's own
            dense weights; not part of the recipe's identity.
        quantize: Another library's format that the model is quantized to while it is loaded.
        prefix_reuse: Whether evaluation computes what prompts share once; not part of the recipe's
            identity.
        bos: Whether BOS begins every window and calibration sample: ``auto`` (where the tokenizer
            adds it itself), ``always``, ``never``.
    """

    compressor: str = "none"
    sparsity: float | None = None
    pattern: str | None = None
    bits: int | None = None
    group_size: int | None = None
    symmetric: bool | None = None
    number_format: str | None = None
    act_order: bool | None = None
    act_group_aware: bool | None = None
    static_groups: bool | None = None
    grid_points: int | None = None
    clip: bool | None = None
    duo_scaling: bool | None = None
    wanda_variant: bool | None = None
    dampening_frac: float | None = None
    block_size: int | None = None
    true_sequential: bool | None = None
    allocation: str | None = None
    owl_lambda: float | None = None
    owl_threshold: float | None = None
    calibration: str | None = None
    nsamples: int | None = None
    seqlen: int | None = None
    seeds: tuple[int, ...] | None = None
    data_dir: str | None = field(default=None, compare=False)
    resume_dir: str | None = field(default=None, compare=False)
    save_compressed: str | None = field(default=None, compare=False)
    save_format: str | None = None
    compress_cache: str | None = field(default=None, compare=False)
    compress_cache_gb: float | None = field(default=None, compare=False)
    reference: str | None = field(default=None, compare=False)
    quantize: str | None = None
    prefix_reuse: bool | None = field(default=None, compare=False)
    bos: str = "auto"

    @property
    def requested_sparsity(self) -> float | None:
        """Share of weights to prune; 0.5 for 2:4."""
        if self.pattern is None or self.pattern == "unstructured":
            return self.sparsity
        kept, every = split_pattern(self.pattern)
        return 1 - kept / every

    @property
    def seed(self) -> int | None:
        """Seed of this run.

        Raises:
            SettingsError: Several seeds were given; one model cannot be compressed with all.
        """
        if self.seeds is None:
            return None
        if len(self.seeds) > 1:
            joined = "+".join(map(str, self.seeds))
            raise SettingsError(
                f"seed={joined}: one run uses one seed. Give one, or use `lmkick study seeds` for "
                "mean and spread over several."
            )
        return self.seeds[0]

    def build_pattern(self) -> Unstructured | NM:
        """Pruning pattern; only for pruners."""
        from compressors import NM, Unstructured

        if self.pattern is None or self.pattern == "unstructured":
            if self.sparsity is None:
                raise SettingsError(f"compressor={self.compressor} needs a sparsity.")
            return Unstructured(self.sparsity)
        return NM(*split_pattern(self.pattern))

    def build_allocation(self) -> dict[str, Any]:
        """Arguments of ``compress_model`` for the allocation."""
        if self.allocation is None:
            return {}
        if self.allocation == "owl":
            owl = {"owl_lambda": self.owl_lambda, "owl_threshold": self.owl_threshold}
            return {"allocation": "owl", **owl}
        from lmkick_plugin.recipe.allocation import FILE, read_sparsities

        return {"allocation": read_sparsities(self.allocation.removeprefix(FILE))}

    def build_compressor(self) -> Compressor | None:
        """The method with its settings; None for ``compressor=none``. Imports torch."""
        if self.compressor == "none":
            return None
        import compressors

        method = getattr(compressors, METHODS[self.compressor].class_name)
        built: Compressor = method(**self._method_settings())
        return built

    def _method_settings(self) -> dict[str, Any]:
        import compressors

        method = METHODS[self.compressor]
        given = {own: getattr(self, name) for name, own in method.arguments.items()}
        settings = {own: value for own, value in given.items() if value is not None}
        if method.prunes:
            settings["pattern"] = self.build_pattern()
        if self.number_format not in (None, "int"):
            settings["number_format"] = self.number_format
        elif self.bits is not None:
            grid: dict[str, Any] = {
                "num_bits": self.bits,
                "group_size": None if self.group_size == -1 else self.group_size,
                "symmetric": self.symmetric,
            }
            settings |= {"quantize": compressors.RTN(**grid)} if method.prunes else grid
        return settings


def split_pattern(pattern: str) -> tuple[int, int]:
    """The two numbers of ``N:M``."""
    kept, every = pattern.split(":")
    return int(kept), int(every)
