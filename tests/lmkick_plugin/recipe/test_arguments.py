# SPDX-License-Identifier: Apache-2.0
"""Arguments become a recipe, or an error that says what to do."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressors import (
    AWQ,
    GPTQ,
    NM,
    RTN,
    Magnitude,
    Random,
    SettingsError,
    SparseGPT,
    Unstructured,
    Wanda,
)
from lmkick_plugin.recipe.argument_table import ARGUMENTS
from lmkick_plugin.recipe.arguments import parse_arguments
from lmkick_plugin.recipe.recipe import Recipe


def recipe(**arguments: Any) -> Recipe:
    return parse_arguments({"pretrained": "model", **arguments})[0]


def test_no_compressor_is_a_recipe_without_settings() -> None:
    assert recipe() == recipe(compressor=None) == recipe(compressor="none") == Recipe()
    assert recipe().build_compressor() is None


def test_defaults_of_wanda() -> None:
    made = recipe(compressor="wanda", sparsity=0.5)
    assert made == Recipe(
        compressor="wanda",
        sparsity=0.5,
        pattern="unstructured",
        wanda_variant=False,
        true_sequential=False,
        calibration="c4",
        nsamples=128,
        seqlen=2048,
        seeds=(0,),
    )
    assert made.build_compressor() == Wanda(pattern=Unstructured(0.5))
    assert made.requested_sparsity == 0.5
    assert made.seed == 0


def test_defaults_of_gptq() -> None:
    assert recipe(compressor="gptq", bits=4) == Recipe(
        compressor="gptq",
        bits=4,
        group_size=128,
        symmetric=True,
        number_format="int",
        act_order=True,
        static_groups=True,
        dampening_frac=0.01,
        block_size=128,
        true_sequential=False,
        calibration="c4",
        nsamples=128,
        seqlen=2048,
        seeds=(0,),
    )


def test_sparsegpt_has_a_grid_only_with_bits() -> None:
    alone = recipe(compressor="sparsegpt", pattern="2:4")
    joint = recipe(compressor="sparsegpt", pattern="2:4", bits=4, group_size=-1.0)
    assert (alone.bits, alone.group_size, alone.symmetric) == (None, None, None)
    assert (joint.bits, joint.group_size, joint.symmetric) == (4, -1, True)


@pytest.mark.parametrize(
    ("odd", "plain"),
    [
        ({"sparsity": "0.5"}, {"sparsity": 0.5}),
        ({"sparsity": 0}, {"sparsity": 0.0}),
        ({"sparsity": 0.5, "pattern": "Unstructured"}, {"sparsity": 0.5}),
        ({"sparsity": "none", "pattern": " 2:4 "}, {"pattern": "2:4"}),
        ({"pattern": "02:04"}, {"pattern": "2:4"}),
        ({"sparsity": 0.5, "nsamples": 32.0}, {"sparsity": 0.5, "nsamples": 32}),
        ({"sparsity": 0.5, "nsamples": "32"}, {"sparsity": 0.5, "nsamples": 32}),
        ({"sparsity": 0.5, "true_sequential": "True"}, {"sparsity": 0.5, "true_sequential": True}),
        ({"sparsity": 0.5, "true_sequential": 1}, {"sparsity": 0.5, "true_sequential": True}),
        ({"sparsity": 0.5, "seed": "3"}, {"sparsity": 0.5, "seed": 3}),
        ({"sparsity": 0.5, "seed": None}, {"sparsity": 0.5}),
    ],
)
def test_values_from_a_command_line_are_read(odd: dict[str, Any], plain: dict[str, Any]) -> None:
    assert recipe(compressor="Wanda", **odd) == recipe(compressor="wanda", **plain)


HALF = Unstructured(0.5)


@pytest.mark.parametrize(
    ("arguments", "method"),
    [
        ({"compressor": "random", "sparsity": 0.5, "seed": 3}, Random(pattern=HALF, seed=3)),
        ({"compressor": "magnitude", "pattern": "2:4"}, Magnitude(pattern=NM(2, 4))),
        (
            {"compressor": "wanda", "sparsity": 0.5, "wanda_variant": "true"},
            Wanda(pattern=HALF, variant=True),
        ),
        ({"compressor": "awq", "bits": 4}, AWQ()),
        ({"compressor": "rtn", "number_format": "FP8"}, RTN(number_format="fp8")),
        ({"compressor": "awq", "number_format": "nvfp4"}, AWQ(number_format="nvfp4")),
        (
            {"compressor": "awq", "bits": 3, "symmetric": 1, "grid_points": 5, "clip": 0},
            AWQ(num_bits=3, symmetric=True, grid_points=5, clip=False),
        ),
        (
            {"compressor": "sparsegpt", "sparsity": 0.5, "dampening_frac": 0.1, "block_size": 64},
            SparseGPT(pattern=HALF, dampening_frac=0.1, block_size=64),
        ),
        (
            {"compressor": "sparsegpt", "pattern": "2:4", "bits": 4, "group_size": -1},
            SparseGPT(pattern=NM(2, 4), quantize=RTN(num_bits=4, group_size=None)),
        ),
        (
            {"compressor": "rtn", "bits": "3", "group_size": 64.0, "symmetric": False},
            RTN(num_bits=3, group_size=64, symmetric=False),
        ),
        (
            {
                "compressor": "gptq",
                "bits": 4,
                "act_group_aware": True,
                "static_groups": False,
            },
            GPTQ(num_bits=4, act_group_aware=True, static_groups=False),
        ),
        (
            {"compressor": "gptq", "bits": 4, "act_order": False, "static_groups": False},
            GPTQ(num_bits=4, act_order=False, static_groups=False),
        ),
        (
            {"compressor": "gptq", "bits": 8, "block_size": 32, "dampening_frac": 0.5},
            GPTQ(num_bits=8, block_size=32, dampening_frac=0.5),
        ),
    ],
)
def test_a_recipe_builds_its_method(arguments: dict[str, Any], method: Any) -> None:
    assert recipe(**arguments).build_compressor() == method


@pytest.mark.parametrize("value", [-1, -1.0, "-1.0", "none", None])
def test_one_group_a_row(value: Any) -> None:
    assert recipe(compressor="rtn", bits=4, group_size=value).group_size == -1


def test_seeds_joined_by_plus_are_kept_but_not_run() -> None:
    made = recipe(compressor="wanda", sparsity=0.5, seed="0+1+2")
    assert made.seeds == (0, 1, 2)
    with pytest.raises(SettingsError, match=r"seed=0\+1\+2.*lmkick study seeds"):
        _ = made.seed


WANDA: dict[str, Any] = {"compressor": "wanda", "sparsity": 0.5}
FOUR_BITS = {"compressor": "gptq", "bits": 4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"compressor": "wnada"}, "compressor='wnada' is unknown. Did you mean 'wanda'"),
        ({"compressor": 4}, "compressor=4 is unknown. Choose one of: none, random"),
        ({"compressor": "wanda", "sparcity": 0.5}, "sparcity is no.*Did you mean 'sparsity'"),
        ({"compressor": "wanda", "patern": "2:4"}, "patern is no.*Did you mean 'pattern'"),
        ({"compressor": "wanda", "parallelize": True}, "or a pattern. Add sparsity=0.5"),
        ({"compressor": "rtn", "wbits": 4}, "wbits is no.*Did you mean 'bits'"),
        ({"compressor": "rtn", "batch_size": 4}, "needs bits. Add bits=4"),
        ({"compressor": "rtn", "bits": 4, "resume_dir": __file__}, "resume_dir=.* is a file"),
        ({"compressor": "wanda", "sparsity": 1.5}, "sparsity=1.5.*below 1"),
        ({"compressor": "wanda", "sparsity": 50}, "sparsity=50.*Did you mean sparsity=0.5"),
        ({"compressor": "wanda", "sparsity": 1}, "sparsity=1.*below 1"),
        ({"compressor": "wanda", "sparsity": -0.1}, "sparsity=-0.1.*at least 0"),
        ({"compressor": "wanda", "sparsity": "nan"}, "expected a number"),
        ({"compressor": "wanda", "sparsity": "half"}, "sparsity='half'.*a number, such as 0.5"),
        ({"compressor": "wanda", "sparsity": True}, "sparsity=True: expected a number"),
        ({"compressor": "wanda", "pattern": "4:2"}, "pattern='4:2'.*Did you mean pattern=2:4"),
        ({"compressor": "wanda", "pattern": "4:4"}, "between 1 and M-1"),
        ({"compressor": "wanda", "pattern": "0:4"}, "between 1 and M-1"),
        ({"compressor": "wanda", "pattern": "2/4"}, "pattern='2/4'.*such as 2:4"),
        ({"compressor": "wanda", "pattern": 124}, "pattern=124.*In YAML, quote it"),
        ({**WANDA, "pattern": "2:4"}, "contradicts pattern=2:4, which fixes the sparsity at 0.5"),
        ({"compressor": "wanda"}, "Add sparsity=0.5 or pattern=2:4"),
        ({"compressor": "magnitude", "pattern": "unstructured"}, "Add sparsity=0.5 or"),
        ({**WANDA, "bits": 4}, "bits=4 does not go with compressor=wanda: only sparsegpt"),
        ({**WANDA, "compressor": "magnitude", "bits": 4}, "Use compressor=sparsegpt"),
        ({"compressor": "rtn"}, "compressor=rtn needs bits. Add bits=4"),
        ({"compressor": "gptq", "bits": 1}, "bits=1: expected a whole number from 2 to 8"),
        ({"compressor": "gptq", "bits": 16}, "bits=16: .*from 2 to 8"),
        ({"compressor": "gptq", "bits": 3.5}, "bits=3.5: .*from 2 to 8"),
        ({"compressor": "gptq", "bits": 4, "sparsity": 0.5}, "sparsity=0.5 does not go with"),
        ({"compressor": "rtn", "bits": 4, "pattern": "2:4"}, "one of: random, magnitude, wanda"),
        ({"compressor": "rtn", "bits": 4, "act_order": True}, "act_order=True .*one of: gptq"),
        ({"compressor": "rtn", "bits": 4, "nsamples": 8}, "nsamples=8 does not go with .*rtn"),
        ({"compressor": "rtn", "bits": 4, "group_size": 0}, "group_size=0.*or -1 for"),
        ({"compressor": "rtn", "bits": 4, "symmetric": "perhaps"}, "expected true or false"),
        ({**WANDA, "group_size": 128}, "group_size=128 does not go with compressor=wanda"),
        ({**WANDA, "block_size": 128}, "block_size=128 does not go with compressor=wanda"),
        ({**WANDA, "compressor": "magnitude", "calibration": "c4"}, "calibration='c4' does not go"),
        ({**WANDA, "compressor": "magnitude", "seed": 1}, "seed=1 does not go with"),
        ({"compressor": "sparsegpt", "sparsity": 0.5, "group_size": 64}, "Add bits=4, or leave"),
        ({**WANDA, "nsamples": 0}, "nsamples=0: expected a whole number of at least 1"),
        ({**WANDA, "seqlen": 1}, "seqlen=1: expected a whole number of at least 2"),
        ({**WANDA, "seed": "0,1"}, "joined by a plus sign"),
        ({**WANDA, "seed": -1}, "seed=-1"),
        ({**WANDA, "seed": "1+1"}, "repeats a seed"),
        ({**WANDA, "calibration": "task:instruct"}, "no training text.*alpaca, freebaseqa"),
        ({**WANDA, "calibration": "task:kick_wikitext"}, "Use calibration=wikitext"),
        ({**WANDA, "calibration": "task:alpacca"}, "Did you mean 'alpaca'"),
        ({**WANDA, "calibration": "mix:c4"}, "two sources or more"),
        ({**WANDA, "calibration": "mix:c4+"}, "two sources or more"),
        ({**WANDA, "calibration": "mix:c4+mix:c4+self"}, "two sources or more"),
        ({**WANDA, "calibration": "mix:self+self"}, "a source twice"),
        ({**WANDA, "calibration": "mix:c4+task:mtbench"}, "no training text"),
        ({**WANDA, "data_dir": "/no/such/folder"}, "data_dir=/no/such/folder: no such folder"),
        ({"compressor": "gptq", "bits": 4, "dampening_frac": 0}, "above 0, such as 0.01"),
        ({"sparsity": 0.5}, "needs a compressor. Add compressor=wanda"),
        ({"bits": 4}, "needs a compressor. Add compressor=gptq"),
        ({"nsamples": 32}, "needs a compressor. Add compressor=wanda"),
        ({"resume_dir": "x"}, "needs a compressor"),
        ({"save_compressed": "out"}, "save_compressed='out' needs a compressor"),
        ({**FOUR_BITS, "save_format": "gptq"}, "needs save_compressed=FOLDER"),
        ({**FOUR_BITS, "compress_cache_gb": 5}, "needs compress_cache=FOLDER"),
        ({**FOUR_BITS, "compress_cache": "a", "compress_cache_gb": 0}, "expected GB"),
        ({**FOUR_BITS, "compress_cache": "a", "resume_dir": "b"}, "Leave resume_dir out"),
        (
            {**FOUR_BITS, "save_compressed": "a", "save_format": "gguf"},
            "Choose one of: dense, gptq",
        ),
        (
            {**FOUR_BITS, "bits": 5, "save_compressed": "a", "save_format": "gptq"},
            "2, 3, 4 or 8 bits",
        ),
        (
            {**FOUR_BITS, "group_size": 48, "save_compressed": "a", "save_format": "gptq"},
            "group_size=48",
        ),
        (
            {
                **FOUR_BITS,
                "static_groups": 0,
                "save_compressed": "a",
                "save_format": "compressed-tensors",
            },
            "Use static_groups=true",
        ),
        (
            {"compressor": "wanda", "sparsity": 0.5, "save_compressed": "a", "save_format": "gptq"},
            "does not quantize",
        ),
        ({"compressor": "rtn", "number_format": "nvfp5"}, "Did you mean 'nvfp4'"),
        ({"compressor": "rtn", "number_format": "int"}, "needs bits"),
        ({"compressor": "rtn"}, "needs bits.*or number_format=nvfp4"),
        ({"compressor": "rtn", "number_format": "fp8", "bits": 8}, "bits=8 does not go with"),
        (
            {"compressor": "rtn", "number_format": "mxfp4", "group_size": 32},
            "fixes bits .4. and groups",
        ),
        (
            {"compressor": "gptq", "number_format": "fp8", "symmetric": 1},
            "Leave bits, group_size and",
        ),
        (
            {"compressor": "sparsegpt", "sparsity": 0.5, "bits": 4, "number_format": "nvfp4"},
            "number_format='nvfp4' does not go with compressor=sparsegpt",
        ),
        (
            {
                "compressor": "rtn",
                "number_format": "nvfp4",
                "save_compressed": "a",
                "save_format": "gptq",
            },
            "save_format=gptq stores integers",
        ),
        ({"compressor": "awq", "bits": 4, "grid_points": 0}, "grid_points=0"),
        ({"compressor": "awq", "bits": 4, "act_order": True}, "act_order=True does not go with"),
        (
            {"compressor": "awq", "bits": 4, "save_compressed": "a", "save_format": "gptq"},
            "AWQ's column factors.*Set grid_points=1",
        ),
        ({"quantize": "nf4"}, "Did you mean 'bnb-nf4'"),
        ({"prefix_reuse": "perhaps"}, "prefix_reuse=.perhaps."),
    ],
)
def test_wrong_or_contradictory_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        recipe(**arguments)


def test_what_asks_for_nothing_is_accepted() -> None:
    idle = {"save_compressed": None, "quantize": "none", "reference": None}
    assert parse_arguments({"pretrained": "model", **idle}) == (Recipe(), {"pretrained": "model"})


def test_arguments_of_others_pass_as_they_came() -> None:
    others = {"pretrained": "m", "dtype": "bfloat16", "batch_size": "auto", "my_name": "-1.0"}
    assert parse_arguments({**others, **WANDA})[1] == others


@pytest.mark.parametrize(
    "compressor", ["wanda", "gptq", "sparsegpt", "rtn", "awq", "magnitude", "random"]
)
@pytest.mark.parametrize("name", [name for name in ARGUMENTS if name != "compressor"])
def test_every_argument_is_used_or_refused(compressor: str, name: str, tmp_path: Any) -> None:
    """No argument is ignored: giving one changes the recipe, or it is an error."""
    base: dict[str, Any] = {"compressor": compressor}
    base |= {"bits": 4} if compressor in ("rtn", "gptq", "awq") else {"sparsity": 0.25}
    values: dict[str, Any] = {
        "sparsity": 0.3,
        "pattern": "1:4",
        "bits": 3,
        "group_size": 64,
        "symmetric": compressor == "awq",
        "grid_points": 5,
        "clip": False,
        "act_order": False,
        "act_group_aware": True,
        "static_groups": False,
        "allocation": "owl",
        "owl_lambda": 0.1,
        "owl_threshold": 7.0,
        "dampening_frac": 0.1,
        "block_size": 64,
        "calibration": "wikitext",
        "nsamples": 3,
        "seqlen": 5,
        "seed": 9,
        "data_dir": str(tmp_path),
        "resume_dir": "kept",
        "compress_cache": "kept",
        "compress_cache_gb": 7,
        "save_compressed": str(tmp_path / "saved"),
        "save_format": "dense",
        "reference": "dense",
        "prefix_reuse": False,
        "bos": "never",
    }
    given = {**base, name: values.get(name, True)}
    if name == "number_format":
        given = {"compressor": compressor, name: "nvfp4"}
    if name == "pattern":
        given.pop("sparsity", None)
    partner = {"save_format": "save_compressed", "compress_cache_gb": "compress_cache"}.get(name)
    if partner is not None:
        base = {**base, partner: values[partner]}
        given = {**given, partner: values[partner]}
    if compressor == "sparsegpt" and name in ("group_size", "symmetric"):
        base = {**base, "bits": 4}
        given = {**given, "bits": 4}
    calibration = name in ("calibration", "nsamples", "seqlen", "seed")
    if name.startswith("owl_") or (calibration and compressor in ("magnitude", "random")):
        base, given = ({**each, "allocation": "owl"} for each in (base, given))
    if compressor not in ARGUMENTS[name].goes_with:
        with pytest.raises(SettingsError):
            recipe(**given)
    else:
        made = recipe(**given)
        field = "seeds" if name == "seed" else name
        assert getattr(made, field) != getattr(recipe(**base), field)


@given(kept=st.integers(1, 20), every=st.integers(1, 40))
def test_a_pattern_keeps_n_of_m_or_is_refused(kept: int, every: int) -> None:
    given = {"compressor": "magnitude", "pattern": f"{kept}:{every}"}
    if kept >= every:
        with pytest.raises(SettingsError):
            recipe(**given)
        return
    made = recipe(**given)
    assert made.requested_sparsity == 1 - kept / every
    assert made.build_pattern() == NM(kept, every)


def test_recipes_are_hashable_and_leave_out_folders(tmp_path: Any) -> None:
    plain = recipe(**WANDA)
    elsewhere = recipe(**WANDA, data_dir=str(tmp_path), resume_dir="kept")
    assert {plain: 1}[elsewhere] == 1
    assert {plain, recipe(**{**WANDA, "sparsity": 0.4})} == {
        plain,
        recipe(**{**WANDA, "sparsity": 0.4}),
    }


def test_reading_arguments_does_not_import_torch() -> None:
    code = (
        "import sys; from lmkick_plugin.recipe.arguments import parse_arguments\n"
        "parse_arguments({'compressor': 'wanda', 'sparsity': 0.5})\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["token", "use_auth_token"])
def test_a_token_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(SettingsError, match="Set HF_TOKEN") as caught:
        parse_arguments({"pretrained": "x", name: "hf_secret"})
    assert "hf_secret" not in str(caught.value)
    for switch in (True, "True", "none", None):
        assert parse_arguments({"pretrained": "x", name: switch})[1][name] == switch
