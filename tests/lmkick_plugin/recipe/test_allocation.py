# SPDX-License-Identifier: Apache-2.0
"""``allocation``: which arguments go with it, and the file it may name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compressors import SettingsError
from lmkick_plugin.recipe.arguments import parse_arguments

WANDA: dict[str, Any] = {"compressor": "wanda", "sparsity": 0.6}
MAGNITUDE: dict[str, Any] = {"compressor": "magnitude", "sparsity": 0.6}


def recipe(**arguments: Any) -> Any:
    return parse_arguments(arguments)[0]


def test_owl_has_its_own_defaults_and_calibrates_every_pruner() -> None:
    made = recipe(**MAGNITUDE, allocation="OWL", nsamples=4)
    assert (made.allocation, made.owl_lambda, made.owl_threshold) == ("owl", 0.08, 5.0)
    assert (made.calibration, made.nsamples, made.seqlen, made.seeds) == ("c4", 4, 2048, (0,))
    assert made.build_allocation() == {
        "allocation": "owl", "owl_lambda": 0.08, "owl_threshold": 5.0
    }  # fmt: skip
    assert recipe(**MAGNITUDE).calibration is None
    assert recipe(**MAGNITUDE).seeds is None
    assert recipe(compressor="random", sparsity=0.6).seeds == (0,)


def test_a_home_folder_is_expanded_wherever_a_path_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "blocks.json").write_text(json.dumps({"model.layers.0": 0.6}))
    made = recipe(
        **WANDA, allocation="file:~/blocks.json", calibration="mix:c4+~/text.txt",
        compress_cache="~/cache", reference="~/dense",
    )  # fmt: skip
    assert made.build_allocation() == {"allocation": {"model.layers.0": 0.6}}
    assert made.calibration == f"mix:c4+{tmp_path}/text.txt"
    assert made.compress_cache == f"{tmp_path}/cache"
    assert made.reference == f"{tmp_path}/dense"


def test_uniform_is_the_default() -> None:
    assert recipe(**WANDA, allocation="uniform") == recipe(**WANDA)
    assert recipe(**WANDA).build_allocation() == {}
    assert recipe(**WANDA, allocation="owl") != recipe(**WANDA)


def test_a_file_gives_each_block_its_sparsity(tmp_path: Path) -> None:
    path = tmp_path / "blocks.json"
    path.write_text(json.dumps({"model.layers.0": 0.5, "model.layers.1": 0}))
    made = recipe(**WANDA, allocation=f"file:{path}")
    assert made.build_allocation() == {"allocation": {"model.layers.0": 0.5, "model.layers.1": 0.0}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model.layers.0": 1.2}', r"model\.layers\.0 asks for 1\.2"),
        ('{"model.layers.0": "a"}', "asks for 'a'"),
        ('{"model.layers.0": NaN}', "asks for nan"),
        ("[0.5]", "expected an object"),
        ("{}", "expected an object"),
        ("{", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_good(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "blocks.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=message):
        recipe(**WANDA, allocation=f"file:{path}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({**WANDA, "allocation": "owls"}, "Did you mean 'owl'"),
        ({**WANDA, "owl_lambda": 0.1}, "owl_lambda=0.1 goes with allocation=owl"),
        ({**WANDA, "allocation": "owl", "owl_lambda": -1}, "at least 0"),
        (
            {"compressor": "wanda", "pattern": "2:4", "allocation": "owl"},
            "pattern=2:4 prunes every block alike",
        ),
        ({"compressor": "rtn", "bits": 4, "allocation": "owl"}, "does not go with compressor=rtn"),
        ({**MAGNITUDE, "nsamples": 4}, "nsamples=4 does not go with .* without allocation=owl"),
        ({**MAGNITUDE, "seed": 4}, "does not go with .* without allocation=owl"),
    ],
)
def test_what_does_not_go_together(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        recipe(**arguments)
