# SPDX-License-Identifier: Apache-2.0
"""Two models never answer for each other out of one ``--use_cache`` file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.model import CachingLM
from lm_eval.models.huggingface import HFLM

from compressors import SettingsError
from lmkick_plugin.inference.answer_cache import FINGERPRINT_KEY, guard_cache
from lmkick_plugin.model import KickLM
from tests.lmkick_plugin.conftest import SENTENCE, make_requests

PAIRS = [(SENTENCE, " A"), (SENTENCE, " B"), (SENTENCE * 12, " C")]


@contextmanager
def cached(model: HFLM, path: Path) -> Iterator[CachingLM]:
    """The model behind lm-eval's cache, as ``--use_cache`` puts it there."""
    wrapped = CachingLM(model, str(path))
    try:
        yield wrapped
    finally:
        wrapped.dbdict.close()
        model.cache_hook.dbdict = None


def score(model: Any) -> list[tuple[float, bool]]:
    found: list[tuple[float, bool]] = model.loglikelihood(make_requests("loglikelihood", PAIRS))
    return found


@pytest.fixture(scope="module")
def settings(tiny_model_dir: Path) -> dict[str, Any]:
    return {"pretrained": str(tiny_model_dir), "device": "cpu"}


@pytest.fixture(scope="module")
def dense(settings: dict[str, Any]) -> KickLM:
    return KickLM(**settings)


@pytest.fixture
def pruned(settings: dict[str, Any]) -> KickLM:
    return KickLM(compressor="magnitude", sparsity=0.5, **settings)


def test_lm_eval_itself_mixes_models_up(
    settings: dict[str, Any], pruned: KickLM, tmp_path: Path
) -> None:
    """The control: what the guard is for."""
    with cached(HFLM(softmax_dtype="float32", **settings), tmp_path / "cache.db") as model:
        of_dense = score(model)
    other = HFLM(pretrained=pruned.model, tokenizer=pruned.tokenizer, softmax_dtype="float32")
    assert score(other) != of_dense
    with cached(other, tmp_path / "cache.db") as model:
        assert score(model) == of_dense


def test_another_compression_stops(
    settings: dict[str, Any], dense: KickLM, pruned: KickLM, tmp_path: Path
) -> None:
    path = tmp_path / "cache.db"
    with cached(pruned, path) as model:
        score(model)
    further = KickLM(compressor="magnitude", sparsity=0.6, **settings)
    for other in (dense, further):
        with (
            pytest.raises(
                SettingsError, match=r"cache.db holds answers of another.*weights_sha256"
            ),
            cached(other, path),
        ):
            pass


def test_the_same_compression_goes_on(
    settings: dict[str, Any], pruned: KickLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache.db"
    with cached(pruned, path) as model:
        first = score(model)
        assert pruned.get_model_info()["kick"]["truncated_prompts"] == {"task": 1}
    again = KickLM(compressor="magnitude", sparsity="0.50", **settings)
    monkeypatch.setattr(again, "_model_call", None)
    with cached(again, path) as model:
        assert score(model) == first
    # The cut prompt was answered from the cache, so the count is unknown.
    assert again.get_model_info()["kick"]["truncated_prompts"] is None


def test_the_same_weights_read_otherwise_stop(settings: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    with cached(KickLM(**settings), path) as model:
        score(model)
    with (
        pytest.raises(SettingsError, match="max_length: 512 there, 64 here"),
        cached(KickLM(max_length=64, **settings), path),
    ):
        pass


def test_a_cache_that_another_kind_of_model_filled_stops(
    settings: dict[str, Any], dense: KickLM, tmp_path: Path
) -> None:
    path = tmp_path / "cache.db"
    with cached(HFLM(**settings), path) as model:
        score(model)
    with (
        pytest.raises(SettingsError, match=r"unnamed model.*--use_cache ANOTHER_PATH"),
        cached(dense, path),
    ):
        pass


def test_an_empty_cache_is_claimed() -> None:
    cache: dict[str, Any] = {}
    assert guard_cache(cache, {"weights": "a"}) is False
    assert guard_cache(cache, {"weights": "a"}) is False  # still no answers in it
    assert cache == {FINGERPRINT_KEY: {"weights": "a"}}
    cache["request"] = 1.0
    assert guard_cache(cache, {"weights": "a"}) is True
