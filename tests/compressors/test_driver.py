# SPDX-License-Identifier: Apache-2.0
"""The block-by-block loop against a plain one, on every family, and what it must leave alone."""

from __future__ import annotations

import copy
import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressors import (
    GPTQ,
    NM,
    RTN,
    Magnitude,
    NumericalError,
    Random,
    SettingsError,
    SparseGPT,
    Unstructured,
    UnsupportedModelError,
    Wanda,
    compress_model,
)
from compressors.blocks import compress_group
from compressors.blocks.find import find_blocks
from compressors.quantization_grid import QuantizationGrid
from tests import oracles
from tests.plain_driver import plain_compress, weights_of
from tests.tiny_models import CONFIGS, MOE, make

WANDA = Wanda(pattern=Unstructured(0.5))
SPARSEGPT = SparseGPT(pattern=Unstructured(0.5))


@pytest.fixture(scope="module")
def samples() -> Tensor:
    """Nine samples, so that no batch size divides them evenly."""
    return torch.randint(3, 128, (9, 32), generator=torch.Generator().manual_seed(0))


def wanda(weight: Tensor, inputs: Tensor) -> Tensor:
    if len(inputs) < 64:
        return weight * oracles.magnitude_mask(weight, 0.5)
    return weight * oracles.wanda_mask(weight, oracles.column_norm(inputs), 0.5)


def sparsegpt(weight: Tensor, inputs: Tensor) -> Tensor:
    if len(inputs) < 64:
        return weight * oracles.magnitude_mask(weight, 0.5)
    return oracles.sparsegpt(weight, oracles.hessian(inputs), sparsity=0.5)[0]


def agreement(family: str, one: nn.Module, other: nn.Module) -> dict[str, float]:
    """By matrix: the share of weights that both models zero, or both keep."""
    others = weights_of(family, other)
    return {
        name: float(((weight == 0) == (others[name] == 0)).double().mean())
        for name, weight in weights_of(family, one).items()
    }


def quiet(model: nn.Module, method: Any, calibration: Tensor | None = None, **more: Any) -> Any:
    return compress_model(model, method, calibration=calibration, progress=False, **more)


# --- against the plain loop ---------------------------------------------------------------------


@pytest.mark.parametrize("family", CONFIGS)
def test_wanda_masks_equal_the_plain_loop(family: str, samples: Tensor) -> None:
    plain, fast = make(family), make(family)
    plain_compress(family, plain, samples, wanda)
    report = quiet(fast, WANDA, samples, batch_size=4)
    assert agreement(family, plain, fast) == dict.fromkeys(weights_of(family, plain), 1.0)
    # Nothing was left out, and nothing else was counted.
    assert len(report.layers) == len(weights_of(family, plain))
    assert report.sparsity == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("family", ["llama", "gemma3", "opt", "gpt_neox", "gpt2", "mixtral"])
def test_sparsegpt_agrees_with_the_plain_loop(family: str, samples: Tensor) -> None:
    plain, fast = make(family), make(family)
    plain_compress(family, plain, samples, sparsegpt)
    quiet(fast, SPARSEGPT, samples, batch_size=4)
    same = agreement(family, plain, fast)
    # A weight that flips by rounding changes what comes after it, so not every block agrees fully.
    first = {name: share for name, share in same.items() if name.startswith("0.")}
    assert min(first.values()) >= 0.999, first
    assert min(same.values()) >= 0.98, same


def test_plain_loop_can_tell_methods_apart(samples: Tensor) -> None:
    one, other = make("llama"), make("llama")
    plain_compress("llama", one, samples, wanda)
    plain_compress("llama", other, samples, sparsegpt)
    assert min(agreement("llama", one, other).values()) < 0.95


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_true_sequential_equals_the_plain_loop_by_stages(family: str, samples: Tensor) -> None:
    stages = [("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)]
    plain, fast, usual = make(family), make(family), make(family)
    plain_compress(family, plain, samples, wanda, stages)
    quiet(fast, WANDA, samples, true_sequential=True)
    quiet(usual, WANDA, samples)
    assert min(agreement(family, plain, fast).values()) == 1.0
    assert min(agreement(family, plain, usual).values()) < 1.0


def test_every_sample_counts(samples: Tensor) -> None:
    one, other = make("llama"), make("llama")
    quiet(one, WANDA, samples, batch_size=4)
    quiet(other, WANDA, samples[:4], batch_size=4)
    assert min(agreement("llama", one, other).values()) < 1.0


@pytest.mark.parametrize("batch_size", [1, 2, 9, 100])
def test_batch_size_and_order_of_samples_make_no_difference(
    samples: Tensor, batch_size: int
) -> None:
    one, other = make("gemma2"), make("gemma2")
    quiet(one, WANDA, samples, batch_size=4)
    quiet(other, WANDA, samples.flip(0), batch_size=batch_size)
    assert min(agreement("gemma2", one, other).values()) == 1.0


@pytest.mark.parametrize("method", [WANDA, SPARSEGPT, GPTQ(num_bits=4, group_size=16)])
def test_twice_gives_the_same_bits(method: Any, samples: Tensor) -> None:
    one, other = make("mixtral"), make("mixtral")
    quiet(one, method, samples)
    quiet(other, method, samples)
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name


# --- all that must not change -------------------------------------------------------------------


@pytest.mark.parametrize("family", CONFIGS)
def test_nothing_but_block_matrices_changes(family: str, samples: Tensor) -> None:
    model = make(family).train()
    model.get_submodule("lm_head").eval()
    before = copy.deepcopy(model.state_dict())
    modes = {name: module.training for name, module in model.named_modules()}
    hooks = {name: len(m._forward_pre_hooks) for name, m in model.named_modules()}
    tied = {id(p) for p in model.parameters()}
    quiet(model, Random(pattern=Unstructured(0.5)), samples)
    quiet(model, WANDA, samples)
    held = {id(matrix.parameter) for block in find_blocks(model) for matrix in block.matrices}
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {n for n, p in model.named_parameters() if id(p) in held}
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: len(m._forward_pre_hooks) for name, m in model.named_modules()} == hooks
    assert {id(p) for p in model.parameters()} == tied
    assert all(p.requires_grad for p in model.parameters())
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_tied_embeddings_stay_tied_and_whole(samples: Tensor) -> None:
    model = make("llama", tie_word_embeddings=True)
    embeddings = model.get_input_embeddings().weight.clone()
    quiet(model, WANDA, samples)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight, embeddings)


def test_hooks_and_stand_ins_are_gone_after_an_error(samples: Tensor) -> None:
    model = make("llama")

    class Failing(type(WANDA)):  # type: ignore[misc]
        def compress_together(self, *_: Any) -> Any:
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        quiet(model, Failing(pattern=Unstructured(0.5)), samples)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert not any("forward" in module.__dict__ for module in model.modules())
    model(input_ids=samples[:1])


def test_stand_ins_are_gone_when_the_model_fails(samples: Tensor) -> None:
    model = make("llama")

    def failing(*_: Any, **__: Any) -> None:
        raise KeyError("rotary")

    model.model.rotary_emb.forward = failing
    with pytest.raises(KeyError, match="rotary"):
        quiet(model, WANDA, samples)
    assert not any("forward" in block.__dict__ for block in model.model.layers)


def test_calibration_free_methods_run_no_forward_pass(samples: Tensor) -> None:
    model = make("llama")

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a forward pass")

    model.forward = forbidden
    report = quiet(model, Magnitude(pattern=Unstructured(0.5)))
    assert report.sparsity == 0.5
    assert report.tokens == 0
    assert {(row.tokens, row.error) for row in report.layers} == {(None, None)}
    with pytest.raises(AssertionError, match="a forward pass"):
        quiet(model, WANDA, samples)


# --- work that is not done ----------------------------------------------------------------------


def test_seconds_end_when_the_device_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(compress_group, "synchronize", waited.append)
    report = quiet(make("llama"), Magnitude(pattern=Unstructured(0.5)))
    assert waited == [torch.device("cpu")] * len(report.layers)


def test_grids_are_made_only_for_who_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = QuantizationGrid.of
    monkeypatch.setattr(
        QuantizationGrid, "of", lambda result: made.append(result) or original(result)
    )
    quiet(make("llama"), RTN(num_bits=4))
    assert not made
    grids: dict[str, QuantizationGrid] = {}
    report = quiet(make("llama"), RTN(num_bits=4), grids=grids)
    assert set(grids) == {row.name for row in report.layers}
    assert len(made) == len(grids)


def test_last_block_runs_once_and_not_to_its_end(samples: Tensor) -> None:
    model = make("llama")
    calls = {"first": 0, "last": 0, "first down": 0, "last down": 0, "head": 0}

    def counting(key: str) -> Any:
        def hook(*_: Any) -> None:
            calls[key] += 1

        return hook

    layers = model.model.layers
    layers[0].register_forward_pre_hook(counting("first"))
    layers[-1].register_forward_pre_hook(counting("last"))
    # Output hooks: a pass that is stopped before the product does not fire them.
    layers[0].mlp.down_proj.register_forward_hook(counting("first down"))
    layers[-1].mlp.down_proj.register_forward_hook(counting("last down"))
    model.lm_head.register_forward_hook(counting("head"))
    quiet(model, WANDA, samples, batch_size=3)
    # Three batches. The first block's hook also fires for each stand-in's call.
    assert calls == {"first": 9, "last": 6, "first down": 4, "last down": 0, "head": 0}


def test_shared_inputs_share_one_statistic(samples: Tensor) -> None:
    sizes: list[int] = []

    class Counting(type(WANDA)):  # type: ignore[misc]
        def compress_together(self, weights: Any, stats: Any, feeds_scores: Any = ()) -> Any:
            sizes.append(len(weights))
            return [WANDA.compress(weight, stats) for weight in weights]

    for family, expected in {
        "llama": [3, 1, 2, 1],
        "phi": [4, 1, 1],
        "gpt2": [1, 1, 1, 1],
        "falcon": [1, 1, 1, 1],
        "mixtral": [3, 1, *[2, 1] * 4],
    }.items():
        sizes.clear()
        model = make(family, **{"n_layer" if family == "gpt2" else "num_hidden_layers": 1})
        quiet(model, Counting(pattern=Unstructured(0.5)), samples)
        assert sizes == expected, family


def test_a_shared_layer_is_compressed_once(samples: Tensor) -> None:
    model = make("llama")
    model.model.layers[2].mlp = model.model.layers[0].mlp
    report = quiet(model, WANDA, samples)
    names = [row.name for row in report.layers]
    assert len(names) == 7 + 7 + 4
    assert not any(name.startswith("model.layers.2.mlp") for name in names)
    assert {row.sparsity for row in report.layers} == {0.5}


def test_a_block_listed_twice_is_compressed_once(samples: Tensor) -> None:
    model, plain = make("llama"), make("llama")
    model.model.layers[2] = model.model.layers[0]
    report = quiet(model, WANDA, samples)
    assert len(report.layers) == 14
    assert report.sparsity == 0.5
    # On the inputs of its first call, which are those of the first block of any such model.
    quiet(plain, WANDA, samples)
    for name, weight in plain.model.layers[0].state_dict().items():
        assert torch.equal(model.model.layers[0].state_dict()[name], weight), name


# --- mixtures of experts ------------------------------------------------------------------------


@pytest.mark.parametrize("family", MOE)
def test_every_expert_is_compressed_and_starved_ones_are_named(
    family: str, samples: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    model = make(family)
    report = quiet(model, SPARSEGPT, samples[:3])
    experts = [row for row in report.layers if ".experts." in row.name]
    assert all(math.isclose(row.sparsity, 0.5) for row in experts)
    starved = [row for row in experts if row.tokens < 64]
    assert starved
    for row in experts:
        expected = f"starved expert ({row.tokens} tokens): magnitude" if row in starved else None
        assert row.note == expected
        assert (row.error is None) == (row in starved)


def test_a_starved_expert_gets_round_to_nearest_when_quantizing(samples: Tensor) -> None:
    model, plain = make("mixtral"), make("mixtral")
    gptq = GPTQ(num_bits=4, group_size=32)
    report = quiet(model, gptq, samples[:2])
    quiet(plain, RTN(num_bits=4, group_size=32))
    rounded = weights_of("mixtral", plain)
    starved = [row for row in report.layers if row.note]
    assert starved
    assert all(row.note.endswith("rtn") and row.num_bits == 4 for row in starved)
    weights = weights_of("mixtral", model)
    for row in starved:
        name = row.name.removeprefix("model.layers.")
        assert torch.equal(weights[name], rounded[name])


def test_a_starved_expert_is_pruned_and_rounded_when_both_are_asked_for(samples: Tensor) -> None:
    joint = SparseGPT(pattern=NM(2, 4), quantize=RTN(num_bits=4, group_size=32))
    report = quiet(make("mixtral"), joint, samples[:2])
    starved = [row for row in report.layers if row.note]
    assert starved
    assert all(row.note.endswith("tokens): magnitude and rtn") for row in starved)
    assert {row.num_bits for row in report.layers} == {4}
    assert min(row.sparsity for row in report.layers) >= 0.5


class _Experts(nn.Module):
    """A block of experts in a ModuleList; those with no token are called too, or skipped."""

    def __init__(self, skips: bool) -> None:
        super().__init__()
        self.skips = skips
        self.gate = nn.Linear(32, 6, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32)) for _ in range(6)
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        flat = hidden_states.flatten(0, 1)
        chosen, result = self.gate(flat).argmax(dim=1), flat.clone()
        for index, expert in enumerate(self.experts):
            if self.skips and not (chosen == index).any():
                continue
            result[chosen == index] += expert(flat[chosen == index])
        return result.view_as(hidden_states)


class _ListOfExperts(nn.Module):
    def __init__(self, skips: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(64, 32)
        self.layers = nn.ModuleList(_Experts(skips) for _ in range(2))

    def forward(self, input_ids: Tensor, use_cache: bool) -> Tensor:
        hidden: Tensor = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden_states=hidden)
        return hidden


@pytest.mark.parametrize("skips", [False, True])
def test_experts_without_tokens_in_the_first_batch_have_their_own_statistics(skips: bool) -> None:
    tokens = torch.randint(0, 64, (300, 2), generator=torch.Generator().manual_seed(1))
    whole, single = _ListOfExperts(skips), _ListOfExperts(skips)
    expected = quiet(whole, WANDA, tokens, batch_size=300)
    # Two tokens a batch reach two of six experts at most.
    report = quiet(single, WANDA, tokens, batch_size=1)
    seen = {row.name: row.tokens for row in report.layers}
    assert seen == {row.name: row.tokens for row in expected.layers}
    assert len(set(seen.values())) > 6
    for name, weight in single.state_dict().items():
        assert torch.equal(weight == 0, whole.state_dict()[name] == 0), name


def test_an_expert_that_no_token_reaches_is_still_compressed(samples: Tensor) -> None:
    model = make("qwen3_moe")

    def to_the_last_two(_: nn.Module, __: Any, output: Any) -> Any:
        logits, scores, chosen = output
        return logits, scores, torch.tensor([2, 3]).expand_as(chosen)

    for layer in model.model.layers:
        layer.mlp.gate.register_forward_hook(to_the_last_two)
    report = quiet(model, WANDA, samples)
    experts = [row for row in report.layers if ".experts." in row.name]
    assert len(experts) == 3 * 4 * 3
    assert {row.sparsity for row in experts} == {0.5}
    unreached = [row for row in experts if row.note == "starved expert (0 tokens): magnitude"]
    assert {row.name.split(".experts.")[1].split(".")[0] for row in unreached} == {"0", "1"}
    assert len(unreached) == 3 * 2 * 3


# --- the report ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [WANDA, SPARSEGPT, GPTQ(num_bits=3, group_size=32)])
def test_reported_error_is_the_relative_output_error(method: Any, samples: Tensor) -> None:
    """On a model with one block all inputs are known, so the oracle can measure the error."""
    dense, model = make("llama", num_hidden_layers=1), make("llama", num_hidden_layers=1)
    seen: dict[str, Tensor] = {}

    def note(weight: Tensor, inputs: Tensor) -> Tensor:
        seen[str(len(seen))] = inputs
        return weight

    plain_compress("llama", copy.deepcopy(dense), samples, note)
    # 96 tokens: few enough for all of them to be in the sample of methods without a Hessian.
    report = quiet(model, method, samples[:3])
    before, after = weights_of("llama", dense), weights_of("llama", model)
    for row, inputs in zip(_in_order(report, before), seen.values(), strict=True):
        name = row.name.removeprefix("model.layers.")
        expected = oracles.output_error(before[name], after[name], inputs[:96])
        assert row.error == pytest.approx(expected, rel=1e-3)
        assert 0 < row.error < 1


def _in_order(report: Any, names: Any) -> list[Any]:
    rows = {row.name.removeprefix("model.layers."): row for row in report.layers}
    return [rows[name] for name in names]


def test_report_counts_what_is_in_the_model(samples: Tensor) -> None:
    model = make("llama", dtype=torch.bfloat16)
    report = quiet(model, Wanda(pattern=NM(2, 4)), samples)
    weights = weights_of("llama", model)
    total = sum(weight.numel() for weight in weights.values())
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    assert (report.parameters, report.nonzero) == (total, total - zeros)
    assert report.sparsity == zeros / total == 0.5
    assert report.bytes_dense == 2 * total
    # 2:4 in 16 bits: half the values, and 3 bits for the 6 ways to choose 2 of 4.
    assert report.bytes_best_format == total // 2 * 2 + total // 4 * 3 // 8
    assert report.tokens == samples.numel()
    assert report.seconds >= sum(row.seconds for row in report.layers)
    assert report.method == "wanda"
    assert report.blocks == 3


def test_bytes_of_a_quantized_model() -> None:
    model = make("llama", dtype=torch.bfloat16)
    symmetric = quiet(model, RTN(num_bits=4, group_size=32))
    total = symmetric.parameters
    assert symmetric.bytes_best_format == total // 2 + total // 32 * 2
    model = make("llama", dtype=torch.bfloat16)
    asymmetric = quiet(model, RTN(num_bits=4, group_size=32, symmetric=False))
    assert asymmetric.bytes_best_format == total // 2 + total // 32 * 2 + total // 32 // 2


# --- bad input ----------------------------------------------------------------------------------


def test_no_calibration_is_an_error_before_any_work() -> None:
    model = make("llama")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SettingsError, match="needs calibration data"):
        quiet(model, WANDA)
    with pytest.raises(SettingsError, match="raise nsamples"):
        quiet(model, SPARSEGPT, torch.empty(0, 32, dtype=torch.int64))
    with pytest.raises(SettingsError, match="vocabulary has 128"):
        quiet(model, WANDA, torch.full((2, 8), 128))
    with pytest.raises(SettingsError, match=r"129 tokens.*context of 128.*max_length"):
        quiet(model, WANDA, torch.ones(2, 129, dtype=torch.int64))
    with pytest.raises(SettingsError, match=r"int64 \[samples, seqlen\]"):
        quiet(model, WANDA, torch.zeros(8, dtype=torch.int64))
    tokens = torch.ones(2, 8, dtype=torch.int64)
    for method in (WANDA, Magnitude(pattern=Unstructured(0.5))):
        for size in (0, -1, 2.0, "auto", True):
            with pytest.raises(SettingsError, match=rf"batch_size={size!r}: expected samples"):
                quiet(model, method, tokens, batch_size=size)
    with pytest.raises(SettingsError, match=r"calibration='c4': expected token ids"):
        quiet(model, WANDA, "c4")
    with pytest.raises(SettingsError, match=r"device=gpu: torch cannot use it"):
        quiet(model, RTN(num_bits=4), device="gpu")
    with pytest.raises(SettingsError, match=r"compressor='wanda': expected a method"):
        quiet(model, "wanda")
    with pytest.raises(SettingsError, match=r"class .*Wanda.*: expected a method"):
        quiet(model, Wanda)
    with pytest.raises(SettingsError, match=r"model='a/model': expected a loaded model"):
        quiet("a/model", WANDA)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_shapes_are_checked_before_any_forward_pass(samples: Tensor) -> None:
    model = make("llama", intermediate_size=90)
    before = copy.deepcopy(model.state_dict())
    model.forward = None
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.0\.mlp\.down_proj.*90"):
        quiet(model, Wanda(pattern=NM(2, 4)), samples)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_weights_are_named_before_any_work(value: float, samples: Tensor) -> None:
    model = make("mixtral")
    model.model.layers[1].mlp.experts.down_proj.data[2, 3, 4] = value
    before = copy.deepcopy(model.state_dict())
    for method, calibration in ((WANDA, samples), (Magnitude(pattern=Unstructured(0.5)), None)):
        with pytest.raises(
            NumericalError, match=r"model\.layers\.1\.mlp\.experts\.2\.down_proj: 1"
        ):
            quiet(model, method, calibration)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight.nan_to_num(1, 2), before[name].nan_to_num(1, 2))


def test_weights_whose_sum_overflows_are_finite() -> None:
    model = make("llama", dtype=torch.bfloat16)
    model.model.layers[0].mlp.up_proj.weight.data.fill_(3e38)
    assert quiet(model, Magnitude(pattern=Unstructured(0.5))).sparsity == 0.5


def test_a_result_too_large_for_its_dtype_stops_with_the_layers_name() -> None:
    model = make("llama", dtype=torch.float16)
    # The lowest point of a symmetric grid lies beyond the largest weight.
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = -65000
    with pytest.raises(NumericalError, match=r"layers\.1\.mlp\.up_proj: .*float16.*bfloat16"):
        quiet(model, RTN(num_bits=4, group_size=32))


@pytest.mark.parametrize("method", [WANDA, SPARSEGPT])
def test_non_finite_activations_stop_with_the_layers_name(method: Any, samples: Tensor) -> None:
    model = make("llama")
    model.model.layers[1].post_attention_layernorm.weight.data[5] = math.inf
    with pytest.raises(NumericalError, match=r"model\.layers\.1\.mlp\.gate_proj.*not finite"):
        quiet(model, method, samples)


def test_too_few_tokens_for_a_hessian_are_told_with_the_rank(
    samples: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        quiet(make("llama"), SPARSEGPT, samples[:1])
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2  # one for each width, not for each matrix
    assert "32 calibration tokens for in_features=64" in messages[0]
    assert "at most rank 32" in messages[0]
    caplog.clear()
    quiet(make("llama"), SPARSEGPT, samples)
    assert not caplog.records


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    ],
)
def test_out_of_memory_says_what_to_change(error: Exception, samples: Tensor) -> None:
    model = make("llama")

    def failing(*_: Any, **__: Any) -> None:
        raise error

    model.model.layers[1].mlp.register_forward_pre_hook(failing)
    with pytest.raises(torch.OutOfMemoryError, match=r"batch_size.*seqlen.*resume_dir") as caught:
        quiet(model, WANDA, samples)
    assert caught.value.__cause__ is error
    assert not any(m._forward_hooks for m in model.modules())


def test_progress_shows_block_and_method(
    samples: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    compress_model(make("llama"), WANDA, calibration=samples)
    shown = capsys.readouterr().err
    assert "wanda" in shown
    assert "model.layers.2" in shown
    assert "3/3" in shown
    quiet(make("llama"), WANDA, samples)
    assert capsys.readouterr().err == ""


def test_a_size_that_does_not_fit_is_answered_for_the_whole_model() -> None:
    model = make("llama")
    columns = {m.view().shape[1] for block in find_blocks(model) for m in block.matrices}
    common = math.gcd(*columns)
    assert len(columns) > 1
    with pytest.raises(UnsupportedModelError, match=rf"every matrix .* divides {common}$"):
        compress_model(model, Magnitude(pattern=NM(1, 2 * max(columns))), progress=False)
