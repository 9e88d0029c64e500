# SPDX-License-Identifier: Apache-2.0
"""Sparsity by block: OWL against the paper's equations, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compressors import (
    NM,
    RTN,
    Magnitude,
    Random,
    SettingsError,
    SparseGPT,
    Unstructured,
    Wanda,
    compress_model,
    driver,
)
from compressors.allocation import owl
from compressors.blocks.find import find_blocks
from tests import oracles
from tests.plain_driver import _inputs_of, weights_of
from tests.tiny_models import make

HALF = Unstructured(0.5)
PRUNERS: list[Any] = [
    Wanda(pattern=HALF), SparseGPT(pattern=HALF), Magnitude(pattern=HALF), Random(pattern=HALF)
]  # fmt: skip


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(3, 128, (5, 40), generator=torch.Generator().manual_seed(0))


def uneven(family: str = "llama") -> Any:
    """A model whose blocks differ in outliers."""
    model = make(family)
    with torch.no_grad():
        for index, block in enumerate(find_blocks(model)):
            for matrix in block.matrices:
                matrix.view()[:, :index] *= 8
    return model


def requested(report: Any) -> dict[str, float]:
    return {row.name.split(".")[2]: row.requested_sparsity for row in report.layers}


def prune(model: Any, method: Any, tokens: Tensor, **settings: Any) -> Any:
    return compress_model(model, method, calibration=tokens, progress=False, **settings)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_owl_is_the_papers_equations(family: str, tokens: Tensor) -> None:
    shares = []
    with torch.no_grad():
        for index in range(3):
            model = uneven(family)
            inputs = _inputs_of(model.model.layers[index], model, tokens)
            weights = weights_of(family, model)
            shares.append(
                oracles.outlier_share(
                    [
                        (weights[f"{index}.{name}"], torch.cat(read))
                        for name, read in inputs.items()
                        if f"{index}.{name}" in weights
                    ],
                    threshold=5.0,
                )
            )
    assert len(set(shares)) == 3
    report = prune(uneven(family), Wanda(pattern=HALF), tokens, allocation="owl")
    expected = oracles.owl(shares, [1, 1, 1], 0.5, 0.08)
    assert list(requested(report).values()) == pytest.approx(expected, abs=1e-9)
    assert max(expected) - min(expected) == pytest.approx(0.16)
    for row in report.layers:
        assert row.sparsity == pytest.approx(row.requested_sparsity, abs=0.02)


def test_a_block_that_stands_twice_counts_once(tokens: Tensor) -> None:
    model = uneven()
    model.model.layers[2] = model.model.layers[0]
    found = requested(prune(model, Wanda(pattern=HALF), tokens, allocation="owl"))
    assert max(found.values()) - min(found.values()) == pytest.approx(0.16)


@pytest.mark.parametrize("method", PRUNERS, ids=lambda method: type(method).__name__)
def test_every_pruner_takes_it(method: Any, tokens: Tensor) -> None:
    plain, shared = uneven(), uneven()
    prune(plain, method, tokens)
    report = prune(shared, method, tokens, allocation="owl")
    assert len(set(requested(report).values())) > 1
    assert report.sparsity == pytest.approx(0.5, abs=0.01)
    same = [torch.equal(a, b) for a, b in zip(plain.parameters(), shared.parameters(), strict=True)]
    assert not all(same)


@pytest.mark.parametrize("method", PRUNERS, ids=lambda method: type(method).__name__)
def test_lambda_0_is_uniform_bit_for_bit(method: Any, tokens: Tensor) -> None:
    plain, shared = uneven(), uneven()
    prune(plain, method, tokens)
    prune(shared, method, tokens, allocation="owl", owl_lambda=0)
    for a, b in zip(plain.parameters(), shared.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_weighted_mean_is_what_was_asked_for() -> None:
    draw = torch.Generator().manual_seed(0)
    for sparsity in (0.3, 0.6, 0.7):
        shares = {str(i): float(torch.rand((), generator=draw)) for i in range(30)}
        sizes = {name: 1000 + 37 * int(name) ** 2 for name in shares}
        found = owl(shares, sizes, sparsity)
        mean = sum(found[name] * sizes[name] for name in found) / sum(sizes.values())
        assert abs(mean - sparsity) < 1e-12
        expected = oracles.owl(list(shares.values()), list(sizes.values()), sparsity, 0.08)
        assert list(found.values()) == pytest.approx(expected, abs=1e-12)
    equal = owl(dict.fromkeys("abc", 0.02), dict.fromkeys("abc", 5), 0.6)
    assert set(equal.values()) == {0.6}


def test_a_mapping_gives_each_block_its_own(tokens: Tensor) -> None:
    asked = {f"model.layers.{index}": 0.25 * (index + 1) for index in range(3)}
    report = prune(make("llama"), Wanda(pattern=HALF), tokens, allocation=asked)
    assert requested(report) == {"0": 0.25, "1": 0.5, "2": 0.75}
    for row in report.layers:
        assert row.sparsity == pytest.approx(row.requested_sparsity, abs=0.02)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (Wanda(pattern=NM(2, 4)), {"allocation": "owl"}, r"prunes by 2:4.*Unstructured"),
        (RTN(num_bits=4), {"allocation": "owl"}, "RTN does not prune"),
        (Wanda(pattern=HALF), {"allocation": "owls"}, "expected 'uniform', 'owl'"),
        (Wanda(pattern=HALF), {"allocation": "owl", "owl_lambda": -1}, "owl_lambda=-1"),
        (
            Wanda(pattern=HALF), {"allocation": {"model.layers.0": 0.5}},
            r"no sparsity for model\.layers\.1; give one for each of 3",
        ),
        (
            Wanda(pattern=HALF), {"allocation": {f"model.layers.{n}": 1.2 for n in range(3)}},
            r"model\.layers\.0 asks for 1\.2",
        ),
        (
            Wanda(pattern=HALF), {"allocation": {f"model.layers.{n}": 0.5 for n in range(4)}},
            r"no block model\.layers\.3",
        ),
        (  # a misspelt name is named before the block that lacks one
            Wanda(pattern=HALF), {"allocation": {"model.layer.0": 0.5}},
            r"no block model\.layer\.0; its blocks are model\.layers\.0 to model\.layers\.2",
        ),
        (
            Wanda(pattern=HALF),
            {"allocation": {f"model.layers.{index}": 0.1 * (index + 1) for index in range(3)}},
            r"the mean over the weights is 0\.200, but sparsity=0\.5; give sparsity=0\.200",
        ),
        (
            Wanda(pattern=Unstructured(0.98)), {"allocation": "owl"},
            r"would get sparsity 1\.\d+; lower owl_lambda \(0\.08\) or the sparsity \(0\.98\)",
        ),
    ],
)  # fmt: skip
def test_what_does_not_go_is_refused(
    method: Any, settings: dict[str, Any], message: str, tokens: Tensor
) -> None:
    model = uneven()
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(SettingsError, match=message):
        prune(model, method, tokens, **settings)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_owl_needs_calibration_whatever_the_method() -> None:
    with pytest.raises(SettingsError, match="allocation='owl' needs calibration data"):
        compress_model(uneven(), Magnitude(pattern=HALF), allocation="owl", progress=False)


def test_another_allocation_is_another_compression(tmp_path: Path, tokens: Tensor) -> None:
    method = Wanda(pattern=HALF)
    first = prune(uneven(), method, tokens, allocation="owl", resume_dir=tmp_path)
    again = prune(uneven(), method, tokens, allocation="owl", resume_dir=tmp_path)
    assert again.resumed_blocks == 3
    assert requested(again) == requested(first)
    with pytest.raises(SettingsError, match="the allocation of the sparsity"):
        prune(uneven(), method, tokens, resume_dir=tmp_path)


def test_shares_that_differ_by_rounding_resume(
    tmp_path: Path, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, shares = Wanda(pattern=HALF), driver.outlier_shares
    prune(uneven(), method, tokens, allocation="owl", resume_dir=tmp_path)
    (tmp_path / "block_0002.safetensors").unlink()
    monkeypatch.setattr(
        driver,
        "outlier_shares",
        lambda *given: {name: share * (1 + 1e-7) for name, share in shares(*given).items()},
    )
    again = prune(uneven(), method, tokens, allocation="owl", resume_dir=tmp_path)
    assert again.resumed_blocks == 2


@pytest.mark.parametrize("method", [Wanda(pattern=HALF), Magnitude(pattern=HALF)])
def test_a_cached_compression_spares_the_pass_for_owl(
    method: Any, tmp_path: Path, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = uneven()
    first = prune(made, method, tokens, allocation="owl", compress_cache=tmp_path)
    # What else decides the sparsities makes another entry.
    others = [{"owl_lambda": 0.05}, {"owl_threshold": 4.0}, {"calibration": tokens.flip(1)}]
    for other in others:
        settings = {"calibration": tokens, "allocation": "owl", **other}
        report = compress_model(
            uneven(), method, compress_cache=tmp_path, progress=False, **settings
        )
        assert not report.from_cache, other
    # A finished entry with a damaged block still says the sparsities.
    model, passes = uneven(), []
    shares = driver.outlier_shares
    monkeypatch.setattr(driver, "outlier_shares", lambda *given: passes.append(1) or shares(*given))
    again = prune(model, method, tokens, allocation="owl", compress_cache=tmp_path)
    assert again.from_cache
    (entry,) = (
        path.parent for path in tmp_path.glob("*/report.json")
        if json.loads(path.read_text())["layers"][0]["requested_sparsity"]
        == first.layers[0].requested_sparsity
    )  # fmt: skip
    (entry / "block_0001.safetensors").write_bytes(b"damaged")
    mended = uneven()
    report = prune(mended, method, tokens, allocation="owl", compress_cache=tmp_path)
    assert (report.from_cache, report.resumed_blocks) == (False, 1)
    assert not passes
    # Without the report the dense weights have to tell again, before any block is restored.
    (entry / "report.json").unlink()
    (entry / "block_0002.safetensors").unlink()
    last = uneven()
    report = prune(last, method, tokens, allocation="owl", compress_cache=tmp_path)
    assert (report.resumed_blocks, len(passes)) == (2, 1)
    for name, weight in made.state_dict().items():
        for other_model in (model, mended, last):
            assert torch.equal(other_model.state_dict()[name], weight), name
