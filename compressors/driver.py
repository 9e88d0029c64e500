# SPDX-License-Identifier: Apache-2.0
"""The loop over a model's blocks: gather statistics, compress, propagate."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn
from tqdm import tqdm

from compressors.allocation import by_block, check_allocation, outlier_shares, owl, weights_of
from compressors.base import Compressor
from compressors.blocks.capture import capture
from compressors.blocks.compress_group import Solver
from compressors.blocks.find import Block, check_supported, find_blocks
from compressors.blocks.forward import Passes, keep_hidden
from compressors.blocks.input_hooks import collecting
from compressors.blocks.offload import BlockMover, concrete_device, home_device, synchronize
from compressors.blocks.preconditions import (
    check_arguments,
    check_batch_size,
    check_calibration,
    check_finite,
    check_shapes,
    in_evaluation,
    memory_advice,
    require_calibration,
)
from compressors.cache import CompressionCache, software
from compressors.defaults import CACHE_GB, OWL_LAMBDA, OWL_THRESHOLD
from compressors.errors import SettingsError
from compressors.quantization_grid import QuantizationGrid
from compressors.report import CompressionReport, LayerReport
from compressors.resume import ResumeStore, fingerprint
from compressors.statistics import Hessian

__all__ = ["BATCH_TOKENS", "CompressionReport", "LayerReport", "compress_model"]

#: Tokens per forward pass of a block unless a batch size is given. On a CPU more gains nothing:
#: intermediate results outgrow the caches, and the allocator gives them back to the system.
BATCH_TOKENS = {"cpu": 512, "cuda": 16384}


def compress_model(
    model: nn.Module,
    compressor: Compressor,
    *,
    calibration: Tensor | None = None,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
    true_sequential: bool = False,
    allocation: str | Mapping[str, float] = "uniform",
    owl_lambda: float = OWL_LAMBDA,
    owl_threshold: float = OWL_THRESHOLD,
    resume_dir: str | Path | None = None,
    compress_cache: str | Path | None = None,
    compress_cache_gb: float = CACHE_GB,
    grids: dict[str, QuantizationGrid] | None = None,
    progress: bool = True,
) -> CompressionReport:
    """Compress the weight matrices of a causal language model's blocks, in place.

    Block by block, as published: a block's statistics are gathered with its dense weights, on
    inputs that came through the blocks compressed before it. Matrices that read the same input
    share one statistic and are solved together. Embeddings, head, norms and routers are untouched.

    The relative output error in the report is ``||X W^T - X W'^T||^2 / ||X W^T||^2`` with W the
    matrix before and W' after, X the inputs its statistics were gathered from: for methods with a
    Hessian over all tokens and at most 128 evenly spaced output rows, for others over all rows and
    at most 256 evenly spaced tokens; float32.

    Args:
        model: A transformers causal language model in float32, bfloat16 or float16. Its own device
            placement is kept.
        compressor: The method with its settings.
        calibration: Token ids, int64 ``[samples, seqlen]``; None where the method needs none.
        device: Where to compute; blocks are moved there one after the other and back, so the model
            need not fit. None computes where each block is.
        batch_size: Calibration samples per forward pass of a block; None chooses by tokens.
            It changes results by rounding only.
        true_sequential: Compress q/k/v, then o, then gate/up, then down, each on inputs that came
            through the former, instead of a whole block at once.
        allocation: How an unstructured sparsity is shared out between blocks: ``"uniform"``,
            ``"owl"`` (:mod:`compressors.allocation`; needs ``calibration`` whatever the method) or
            a mapping of block names to sparsities.
        owl_lambda: Half of the spread of sparsities between blocks.
        owl_threshold: Multiple of the mean score from which on a weight is an outlier.
        resume_dir: Keep finished blocks here, and go on from them when called again. Other models
            and settings are refused.
        compress_cache: Cache folder: compressed weights are read from it where they are there,
            else written to it (:mod:`compressors.cache`).
        compress_cache_gb: Size limit of ``compress_cache`` in GB; the least recently used entries
            are removed first.
        grids: Filled with the grid of each matrix that is quantized, by its name: what a checkpoint
            of integers needs beside the weights.
        progress: Show a progress bar.

    Returns:
        The report, counted on the weights that are then in the model.

    Raises:
        SettingsError: The calibration data is missing or malformed, an allocation does not go with
            method or model, ``resume_dir`` belongs to another compression, or a folder cannot be
            used or has no room.
        UnsupportedModelError: Blocks or matrices cannot be found, or do not go with the settings.
        NumericalError: Weights or activations are not finite, or a Hessian stays indefinite.
        torch.OutOfMemoryError: Memory ran out; the message says what to change.

    References:
        Frantar and Alistarh, arXiv:2301.00774 (SparseGPT); Sun et al., arXiv:2306.11695 (Wanda);
        Frantar et al., arXiv:2210.17323, section 4 (GPTQ), whose code has "true sequential".
    """
    clock = _Clock()
    check_arguments(model, compressor)
    if resume_dir is not None and compress_cache is not None:
        raise SettingsError(
            "resume_dir and compress_cache were both given, but compress_cache keeps finished "
            "blocks too: leave resume_dir out"
        )
    cache = None if compress_cache is None else CompressionCache(compress_cache, compress_cache_gb)
    held = ExitStack()
    with held, torch.inference_mode(False), torch.no_grad(), in_evaluation(model), memory_advice():
        check_batch_size(batch_size)
        tokens = check_calibration(model, compressor, calibration)
        check_supported(model)
        blocks = find_blocks(model)
        check_shapes(compressor, blocks)
        check_finite(blocks)
        whole = check_allocation(compressor, blocks, allocation, owl_lambda, owl_threshold)
        target = None if device is None else concrete_device(device)
        home = target or home_device(blocks[0].module)
        sparsities = None if isinstance(allocation, str) else dict(allocation)
        by_owl = allocation == "owl"
        text = require_calibration(model, "allocation='owl'", calibration) if by_owl else tokens
        store, entry, known, finished = None, None, None, []
        # The rule, not the sparsities: these cost a pass, which an entry may spare, and can differ
        # by rounding.
        rule = ("owl", float(owl_lambda), float(owl_threshold)) if by_owl else sparsities
        identify = partial(fingerprint, model, compressor, text, true_sequential, rule)
        if resume_dir is not None:
            store = ResumeStore(resume_dir, identify())
        elif cache is not None:
            identity = {**identify(), "software": software()}
            entry = held.enter_context(cache.entry(identity, _kept_bytes(blocks)))
            store, known = entry.store, entry.report()
        if by_owl and text is not None and whole is not None:
            # Shares are those of the dense weights: they come before any block is restored.
            sparsities = _requested(known, blocks) or owl(
                outlier_shares(
                    model, blocks, _batches(text, batch_size, home), target, owl_threshold
                ),
                weights_of(blocks),
                whole,
                owl_lambda,
            )
        if store is not None:
            finished = store.restore(blocks, grids)
        if known is not None and len(finished) == len(blocks):
            return known
        clock.lap("prepare", None)
        method = type(compressor).__name__.lower()
        with tqdm(
            total=len(blocks),
            initial=len(finished),
            desc=method,
            unit="block",
            disable=not progress,
        ) as bar:
            run = _Run(
                blocks=blocks,
                compressor=compressor,
                sparsities=sparsities,
                tokens=0 if tokens is None else tokens.numel(),
                store=store,
                finished=finished,
                grids=grids,
                clock=clock,
                bar=bar,
            )
            if tokens is None:
                run.without_calibration(target)
            elif len(finished) < len(blocks):
                batches = _batches(tokens, batch_size, home)
                run.with_calibration(model, batches, target, true_sequential)
        report = _report(run, compressor, home, len(finished), clock)
        if entry is not None:
            entry.finish(report)
    return report


class _Run:
    """State of one compression."""

    def __init__(
        self,
        *,
        blocks: list[Block],
        compressor: Compressor,
        sparsities: Mapping[str, float] | None,
        tokens: int,
        store: ResumeStore | None,
        finished: list[tuple[LayerReport, ...]],
        grids: dict[str, QuantizationGrid] | None,
        clock: _Clock,
        bar: tqdm[NoReturn],
    ) -> None:
        self.blocks = blocks
        self.tokens = tokens
        self.rows: dict[int, Sequence[LayerReport]] = dict(enumerate(finished))
        self._compressor = compressor
        self._by_block = by_block(compressor, sparsities or {})
        self._solver = Solver(tokens, keep_grids=store is not None or grids is not None)
        self._store = store
        self._grids = grids
        self._clock = clock
        self._bar = bar
        # Blocks of one structure run alike: what was learned on the first serves all.
        self._stages: dict[tuple[str, ...], list[list[str]]] = {}
        self._last: dict[tuple[str, ...], str] = {}

    def with_calibration(
        self,
        model: nn.Module,
        batches: Sequence[Tensor],
        device: torch.device | None,
        true_sequential: bool,
    ) -> None:
        """Compress block after block on the propagated calibration batches."""
        inputs = capture(model, [block.module for block in self.blocks], batches)
        keep_hidden(inputs, device)
        self._clock.lap("capture", device)
        mover = BlockMover([self.blocks[index] for index in inputs.order], device)
        try:
            for step, index in enumerate(inputs.order):
                block = self.blocks[index]
                with mover.visiting(step) as here:
                    self._clock.lap("move", here)
                    passes = Passes(inputs, step, block, here)
                    if index not in self.rows:
                        self._bar.set_postfix_str(block.name)
                        rows = list(self._compress(passes, true_sequential))
                        self._finish(index, rows)
                    if step + 1 < len(inputs.order):
                        passes.propagate()
                        self._clock.lap("propagate", here)
        finally:
            mover.close()
        # Blocks that the model keeps but did not call have no inputs.
        self.without_calibration(device)

    def without_calibration(self, device: torch.device | None) -> None:
        """Compress the blocks that are left by their weights alone; no forward pass."""
        remaining = [index for index in range(len(self.blocks)) if index not in self.rows]
        mover = BlockMover([self.blocks[index] for index in remaining], device)
        try:
            for step, index in enumerate(remaining):
                block = self.blocks[index]
                self._bar.set_postfix_str(block.name)
                with mover.visiting(step) as here:
                    self._clock.lap("move", here)
                    rows = list(self._solver.without_inputs(block.matrices, self._method(block)))
                    self._clock.lap("solve", here)
                    self._finish(index, rows)
        finally:
            mover.close()

    def _compress(self, passes: Passes, true_sequential: bool) -> Iterator[LayerReport]:
        """Gather and solve one block, stage by stage."""
        names, method = passes.matrices(), self._method(passes.block)
        key = tuple(names)
        if not names:
            return
        stages = [list(names)]
        if true_sequential:
            if key not in self._stages:
                self._stages[key] = passes.stages()
            stages = self._stages[key]
        for number, stage in enumerate(stages):
            chosen = [names[name] for name in stage]
            stop_key = (*key, str(number))
            with collecting(
                chosen,
                self._compressor.statistic,
                sampled=not issubclass(self._compressor.statistic, Hessian),
            ) as collector:
                stop = self._last.get(stop_key)
                self._last[stop_key] = passes.gather(collector, stop)
            self._clock.lap("statistics", passes.device)
            missed = dict.fromkeys(chosen)
            for group in collector.groups:
                yield from self._solver.group(group, method)
                for matrix in group.matrices:
                    missed.pop(matrix)
            yield from self._solver.without_inputs(missed, method)
            self._clock.lap("solve", passes.device)

    def _method(self, block: Block) -> Compressor:
        """The method with this block's sparsity."""
        return self._by_block.get(block.name, self._compressor)

    def _finish(self, index: int, rows: Sequence[LayerReport]) -> None:
        self.rows[index] = rows
        grids = self._solver.take_grids()
        if self._store is not None:
            self._store.save(index, self.blocks[index], rows, grids)
        if self._grids is not None:
            self._grids |= grids
        self._bar.update()


class _Clock:
    """Wall-clock time by stage."""

    def __init__(self) -> None:
        self.started = self._latest = time.perf_counter()
        self.stages: dict[str, float] = {}

    def lap(self, stage: str, device: torch.device | None) -> None:
        """Add the time since the last lap to ``stage``, after the device is done."""
        if device is not None:
            synchronize(device)
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self._latest
        self._latest = now


def _kept_bytes(blocks: Sequence[Block]) -> int:
    """Bytes of the compressed parameters."""
    return sum(p.numel() * p.element_size() for block in blocks for _, p in block.parameters())


def _requested(
    report: CompressionReport | None, blocks: Sequence[Block]
) -> dict[str, float] | None:
    """Sparsity that a report states for each block with matrices; None where it does not."""
    stated = {row.name: row.requested_sparsity for row in report.layers} if report else {}
    found = {}
    for block in blocks:
        if block.matrices:
            sparsity = stated.get(block.matrices[0].name)
            if sparsity is None:
                return None
            found[block.name] = sparsity
    return found


def _batches(tokens: Tensor, batch_size: int | None, device: torch.device) -> tuple[Tensor, ...]:
    """Cut the samples into batches."""
    if batch_size is None:
        batch_size = max(1, BATCH_TOKENS.get(device.type, 16384) // tokens.shape[1])
    return torch.split(tokens, batch_size)


def _report(
    run: _Run, compressor: Compressor, device: torch.device, resumed: int, clock: _Clock
) -> CompressionReport:
    rows = tuple(row for index in sorted(run.rows) for row in run.rows[index])
    parameters = sum(row.shape[0] * row.shape[1] for row in rows)
    nonzero = sum(row.nonzero for row in rows)
    return CompressionReport(
        method=type(compressor).__name__.lower(),
        recipe=repr(compressor),
        layers=rows,
        sparsity=1 - nonzero / parameters,
        parameters=parameters,
        nonzero=nonzero,
        bytes_dense=sum(row.bytes_dense for row in rows),
        bytes_best_format=sum(row.bytes_best_format for row in rows),
        tokens=run.tokens,
        seconds=time.perf_counter() - clock.started,
        stages=clock.stages,
        device=str(device),
        blocks=len(run.blocks),
        resumed_blocks=resumed,
    )
