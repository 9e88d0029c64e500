# SPDX-License-Identifier: Apache-2.0
"""Runs found under folders: which model they are of, what they are called, what is wrong."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest

from lmkick_plugin.recipe.methods import OWN_SETTINGS
from lmkick_plugin.record import build as record_module
from lmkick_plugin.record.fields import RECORD_FIELDS
from lmkick_plugin.report.curves import curves_of, level_name, matching
from lmkick_plugin.report.evidence import Evidence, Settings, gather
from lmkick_plugin.report.models import collect
from lmkick_plugin.report.scores import headline, scores_of, shown_tasks
from lmkick_plugin.results.results_file import ResultsError
from lmkick_plugin.results.runs import load_run
from tests.lmkick_plugin.report.worlds import quiz, record
from tests.lmkick_plugin.run_files import Writer, choice_item

FAST = Settings(resamples=500)


def facts(
    write: Writer, name: str, share: float, kick: object = None, n: int = 200, **more: object
) -> Path:
    more.setdefault("directions", {"contains": True})
    return write(name, {"kick_freebaseqa": quiz("contains", share, n=n)}, record=kick, **more)  # type: ignore[arg-type]


@pytest.fixture
def grid(write: Writer) -> Path:
    facts(write, "r/dense", 0.6, record(), model_name="big-7b")
    for s, share in ((0.2, 0.6), (0.4, 0.3), (0.6, 0.6)):
        kick = record("wanda", requested_sparsity=s)
        facts(write, f"r/wanda-{s}", share, kick, model_name="big-7b")
    return write.folder / "r"


def test_runs_are_sorted_into_models_and_curves(grid: Path) -> None:
    found = collect([grid])
    (model,) = found.models
    assert model.name == "big-7b"
    assert model.dense is not None
    assert [c.label for c in model.cells] == [f"big-7b wanda {s} %" for s in (20, 40, 60)]
    (curve,) = curves_of(model)
    assert (curve.name, curve.kind) == ("wanda", "sparsity")
    assert [level.name for level in curve.levels] == ["20 %", "40 %", "60 %"]
    assert found.notes == ()


def test_a_curve_need_not_be_monotonic(grid: Path) -> None:
    evidence = gather(collect([grid]), FAST)
    (curve,) = curves_of(evidence.collection.models[0])
    found = matching(evidence, curve, "kick_freebaseqa")
    assert found is not None
    assert found.verdicts == ("match", "fail", "match")
    assert found.largest is curve.levels[2]
    assert found.first_failing is curve.levels[1]


def test_results_of_models_in_relative_folders_are_found(grid: Path) -> None:
    """lm-eval calls the folder of ``../models/mine`` so; what is being written lies elsewhere."""
    for number, name in enumerate(["..__models__mine", ".__mine", ".unfinished"]):
        path = next((grid / f"wanda-0.{2 * (number + 1)}").rglob("results_*.json"))
        folder = grid / "moved" / name
        folder.mkdir(parents=True)
        path.rename(folder / path.name)
    (model,) = collect([grid]).models
    assert [cell.label for cell in model.cells] == ["big-7b wanda 20 %", "big-7b wanda 40 %"]


def test_what_a_sweep_could_not_evaluate_is_named(grid: Path) -> None:
    for number, content in enumerate(
        [
            {"cell": "m/gptq", "error": {"type": "RuntimeError", "message": "no\x1b[31m memory"}},
            {
                "cell": "m/wanda",
                "error": None,
                "tasks": {
                    "kick_mmlu": {"state": "failed", "error": {"type": "OSError", "message": ""}},
                    "kick_freebaseqa": {"state": "done"},
                },
            },
            {"cell": "m/fine", "error": None, "tasks": {"kick_mmlu": {"state": "done"}}},
            ["somebody else's file of that name"],
        ]
    ):
        (grid / str(number)).mkdir()
        (grid / str(number) / "cell.json").write_text(json.dumps(content), encoding="utf-8")
    (grid / "0" / "deeper").mkdir()
    (grid / "0" / "deeper" / "cell.json").write_text('{"cell": "half', encoding="utf-8")
    model, task = collect([grid]).notes
    assert "m/gptq: failed, so it is missing here: RuntimeError: no?[31m memory" in model
    assert "m/wanda: kick_mmlu failed: OSError" in task
    for path in grid.rglob("results_*.json"):
        path.unlink()
    with pytest.raises(ResultsError, match="m/gptq: failed"):
        collect([grid])


def test_seeds_are_one_level(write: Writer) -> None:
    facts(write, "r/dense", 0.6, record(), model_name="big-7b")
    for seed, share in ((0, 0.6), (1, 0.3)):
        kick = record("wanda", requested_sparsity=0.2, seed=seed)
        facts(write, f"r/{seed}", share, kick, model_name="big-7b")
    evidence = gather(collect([write.folder]), FAST)
    (curve,) = curves_of(evidence.collection.models[0])
    assert [len(level.cells) for level in curve.levels] == [2]
    found = matching(evidence, curve, "kick_freebaseqa")
    assert found is not None
    assert found.verdicts == ("inconclusive",)  # one seed matches, one fails
    labels = [cell.label for cell in curve.cells]
    assert len(set(labels)) == 2
    assert all("seed" in label for label in labels)


def test_other_settings_are_other_curves(write: Writer) -> None:
    facts(write, "dense", 0.6, record())
    for count in (8, 128):
        facts(write, f"w{count}", 0.5, record("wanda", requested_sparsity=0.2, nsamples=count))
    models = {model.key: model for model in collect([write.folder]).models}
    names = [curve.name for curve in curves_of(models["big-7b"])]
    assert sorted(names) == ["wanda (samples 128)", "wanda (samples 8)"]


def test_pattern_levels_run_from_mild_to_severe(write: Writer) -> None:
    for pattern in ("1:2", "4:8", "2:4", "8:16"):
        kick = record("wanda", requested_sparsity=0.5, pattern=pattern)
        facts(write, pattern.replace(":", "of"), 0.5, kick)
    (model,) = collect([write.folder]).models
    (curve,) = curves_of(model)
    assert [level.name for level in curve.levels] == ["8:16", "4:8", "2:4", "1:2"]


def test_a_missing_dense_run_is_said(write: Writer) -> None:
    facts(write, "w", 0.5, record("wanda", requested_sparsity=0.2))
    found = collect([write.folder])
    assert found.models[0].dense is None
    assert any("no dense run" in note for note in found.notes)
    assert gather(found, FAST).pairings == {}


def test_the_newest_of_two_runs_counts_and_is_said(write: Writer) -> None:
    facts(write, "a", 0.5, record(), model_name="m", stamp="2026-01-01T00-00-00.0")
    facts(write, "b", 0.7, record(), model_name="m", stamp="2026-01-02T00-00-00.0")
    found = collect([write.folder])
    (cell,) = found.cells
    assert [s.value for s in scores_of(cell)] == [0.7]
    assert any("the newest of each counts" in note for note in found.notes)


def test_broken_files_are_named_and_skipped(grid: Path) -> None:
    half = grid / "half" / "results_2026-01-02T03-04-05.678901.json"
    half.parent.mkdir()
    half.write_text('{"results": {"kick_')
    empty = grid / "empty" / "results_2026-01-02T03-04-05.678901.json"
    empty.parent.mkdir()
    empty.write_text(json.dumps({"results": {}, "configs": {}}))
    found = collect([grid])
    assert len(found.cells) == 4
    assert len(found.skipped) == 2
    assert str(half) in found.skipped[0]
    assert str(empty) in found.skipped[1]


def test_broken_samples_leave_out_that_run_alone(grid: Path) -> None:
    (samples,) = (grid / "wanda-0.2").glob("samples_*.jsonl")
    samples.write_text(samples.read_text()[:-40])
    evidence = gather(collect([grid]), FAST)
    assert len(evidence.pairings) == 2
    assert any("is truncated" in note for note in evidence.notes)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no lm-eval results"):
        collect([tmp_path])
    with pytest.raises(ResultsError, match="no such file"):
        collect([tmp_path / "absent"])


def test_a_newer_format_is_said(write: Writer) -> None:
    facts(write, "w", 0.5, {**record(), "entropy_coding": "yes"})
    found = collect([write.folder])
    assert any("entropy_coding" in note and "newer" in note for note in found.notes)


def test_runs_of_other_models_stand_by_name_or_label(write: Writer) -> None:
    facts(write, "dense", 0.6, record(), model_name="big-7b")
    awq = facts(write, "awq", 0.6, None, model_name="somebody/big-7b-awq")
    assert [m.name for m in collect([write.folder]).models] == ["big-7b", "big-7b-awq"]
    label = "base_model=big-7b,compressor=awq,bits=4,label=AWQ of somebody's"
    (model,) = collect([write.folder], labels={awq: label}).models
    (cell,) = model.cells
    assert (cell.label, cell.bits, cell.quantized) == ("AWQ of somebody's", 4, True)
    evidence = gather(collect([write.folder], labels={awq: label}), FAST)
    assert [p.statistics.verdict for p in evidence.pairings.values()] == ["match"]


@pytest.mark.parametrize(
    ("kick", "label", "expected"),
    [
        (None, "base_model=big-7b,compressor=wanda,sparsity=0.3", "big-7b wanda 30 %"),
        (None, "bytes_best_format=5", "big-7b hf"),
        ("rtn", "compressor=awq,bits=3", "big-7b awq 3 bits"),
        ("rtn", "bytes_best_format=5", "big-7b rtn 4 bits"),
    ],
)
def test_a_name_follows_what_the_label_says_was_done(
    write: Writer, kick: str | None, label: str, expected: str
) -> None:
    own = None if kick is None else record(kick, num_bits=4)
    run = facts(write, "run", 0.6, own, model_name="big-7b")
    (model,) = collect([run], labels={run: label}).models
    assert [cell.label for cell in model.all] == [expected]


def test_a_plain_run_of_the_same_name_is_the_dense_one(write: Writer) -> None:
    facts(write, "hf", 0.6, None, model_name="big-7b")
    facts(write, "w", 0.6, record("wanda", requested_sparsity=0.2))
    (model,) = collect([write.folder]).models
    assert model.dense is not None
    assert model.dense.record == {}
    assert model.dense.dense is True


def test_a_checkpoint_that_names_no_base_is_not_its_own_dense_model(write: Writer) -> None:
    facts(write, "hf", 0.6, None, model_name="awq-of-somebody")
    kick = record("awq", base="awq-of-somebody", num_bits=4, checkpoint={"storage": "awq"})
    facts(write, "kick", 0.6, kick, model_name="awq-of-somebody")
    (model,) = collect([write.folder]).models
    assert model.dense is None
    assert sorted(str(cell.dense) for cell in model.cells) == ["False", "None"]


@pytest.mark.parametrize(
    ("label", "dense", "level"),
    [
        (None, None, "unknown"),
        ("theirs", None, "unknown"),
        ("base_model=big-7b", None, "unknown"),
        ("bytes_best_format=5", None, "unknown"),
        ("compressor=none", True, "uncompressed"),
        ("compressor=awq", False, "unknown"),
        ("bits=4", False, "4 bits"),
        ("pattern=2:4", False, "2:4"),
    ],
)
def test_a_run_that_nothing_tells_of_is_not_taken_for_dense(
    write: Writer, label: str | None, dense: bool | None, level: str
) -> None:
    run = facts(write, "hf", 0.6, None, model_name="saved-by-lmkick")
    facts(write, "w", 0.6, record("wanda", requested_sparsity=0.2))
    found = collect([write.folder], labels={} if label is None else {run: label})
    (cell,) = (cell for cell in found.cells if cell.record.get("compressor") != "wanda")
    assert cell.dense is dense
    assert level_name(cell) == level
    assert any(model.dense is cell for model in found.models) is (dense is True)
    said = [note for note in found.notes if "not recorded whether compressed" in note]
    assert [cell.label in note and "--label" in note for note in said] == [True] * (dense is None)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("sparsness=0.5", "sparsness"),
        ("compresor=awq", "Did you mean 'compressor'"),
        ("", "empty"),
        ("bits=4,oops", "oops"),
        ("bits=four", "expected a number"),
    ],
)
def test_wrong_labels(write: Writer, label: str, message: str) -> None:
    folder = facts(write, "w", 0.5)
    with pytest.raises(ResultsError, match=message):
        collect([folder], labels={folder: label})
    with pytest.raises(ResultsError, match="no such file"):
        collect([folder], labels={folder / "absent": "x"})


def test_different_limits_are_said_and_not_compared(write: Writer) -> None:
    facts(write, "dense", 0.6, record())
    kick = record("wanda", requested_sparsity=0.2)
    facts(write, "w", 0.5, kick, n=50, config={"limit": 50})
    evidence = gather(collect([write.folder]), FAST)
    assert evidence.pairings == {}
    assert any("limit None against 50" in note for note in evidence.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chat_template_sha": "abc"}, "chat template none against abc"),
        ({"n-shot": {"kick_freebaseqa": 5}}, "few-shot 0 against 5"),
        ({"versions": {"kick_freebaseqa": 2.0}}, "version 1.0 against 2.0"),
    ],
)
def test_without_samples_settings_decide(
    write: Writer, change: dict[str, object], message: str
) -> None:
    scores = {"kick_freebaseqa": {"contains_stderr,none": 0.01}}
    both = {"samples": False, "scores": scores}
    facts(write, "dense", 0.6, record(), **both)
    facts(write, "w", 0.5, record("wanda", requested_sparsity=0.2), **both, **change)
    evidence = gather(collect([write.folder]), FAST)
    assert evidence.pairings == {}
    assert any(message in note for note in evidence.notes)


SHOTS = {"n-shot": {"kick_freebaseqa": 5}}
TEMPLATE = {"chat_template_sha": "abc", "fewshot_as_multiturn": False}


@pytest.mark.parametrize(
    ("both", "change", "message"),
    [
        (
            {"configs": {"kick_freebaseqa": {"generation_kwargs": {"max_gen_toks": 32}}}},
            {"configs": {"kick_freebaseqa": {"generation_kwargs": {"temperature": 1.5}}}},
            "request settings: max_gen_toks 32 against none, temperature none against 1.5",
        ),
        (SHOTS, {"config": {"fewshot_seed": 99}}, "seed of the few-shot examples 1234 against 99"),
        (
            {**SHOTS, **TEMPLATE},
            {"fewshot_as_multiturn": True},
            "few-shot examples as turns False against True",
        ),
        # What changes no prompt is no difference.
        ({}, {"config": {"fewshot_seed": 99}}, ""),
        (TEMPLATE, {"fewshot_as_multiturn": True}, ""),
        ({**SHOTS, **TEMPLATE, "chat_template_sha": None}, {"fewshot_as_multiturn": True}, ""),
        (
            {**SHOTS, "task_hashes": {"kick_freebaseqa": "f00"}},
            {"config": {"fewshot_seed": 99}},
            "",
        ),
        (
            {**SHOTS, "configs": {"kick_freebaseqa": {"fewshot_config": {"sampler": "first_n"}}}},
            {"config": {"fewshot_seed": 99}},
            "",
        ),
    ],
)
def test_without_samples_requests_and_shots_decide_where_they_change_prompts(
    write: Writer, both: dict[str, object], change: dict[str, object], message: str
) -> None:
    common = {"samples": False, "scores": {"kick_freebaseqa": {"contains_stderr,none": 0.03}}}
    facts(write, "dense", 0.6, record(), **common, **both)
    kick = record("wanda", requested_sparsity=0.2)
    facts(write, "w", 0.5, kick, **{**common, **both, **change})
    evidence = gather(collect([write.folder]), FAST)
    assert (evidence.pairings == {}) == bool(message)
    assert any(message in note for note in evidence.notes)


def test_without_samples_standard_errors_have_to_do(write: Writer) -> None:
    scores = {"kick_freebaseqa": {"contains_stderr,none": 0.01}}
    both = {"samples": False, "scores": scores}
    facts(write, "dense", 0.6, record(), **both)
    facts(write, "w", 0.5, record("wanda", requested_sparsity=0.2), **both)
    evidence = gather(collect([write.folder]), FAST)
    (pairing,) = evidence.pairings.values()
    assert not pairing.paired
    assert pairing.statistics.verdict == "fail"
    low, high = pairing.statistics.interval
    # Two independent errors of 0.01: 1.96 times their root of squares about -0.1.
    assert (low, high) == pytest.approx((-0.1277, -0.0723), abs=0.003)
    assert any("standard errors" in note for note in evidence.notes)


def alone(
    write: Writer, metric: str, dense: float, compressed: float, error: float, n: int = 20
) -> Evidence:
    """Two runs without samples, with the same standard error."""
    scores = {"t": {f"{metric},none": dense, f"{metric}_stderr,none": error}}
    items, common = quiz("acc", 1.0, n=n), {"samples": False, "directions": {metric: True}}
    write("dense", {"t": items}, record=record(), scores=scores, **common)
    scores = {"t": {**scores["t"], f"{metric},none": compressed}}
    kick = record("wanda", requested_sparsity=0.2)
    write("w", {"t": items}, record=kick, scores=scores, **common)
    return gather(collect([write.folder]), Settings(metrics={"t": metric}))


@pytest.mark.parametrize(("n", "verdict"), [(20, "inconclusive"), (200, "match")])
def test_without_samples_no_wrong_answer_among_few_is_not_no_loss(
    write: Writer, n: int, verdict: str
) -> None:
    """lm-eval's standard error is 0 where all items are right."""
    evidence = alone(write, "exact_match", 1.0, 1.0, 0.0, n)
    (pairing,) = evidence.pairings.values()
    found = pairing.statistics
    assert found.verdict == verdict
    low, high = found.interval
    # The difference of two Beta(n + 1, 1) is nearly a Laplace variate of rate n + 1.
    assert low == pytest.approx(0.05 ** (1 / (n + 1)) - 1, rel=0.1)
    assert low < 0 < high
    assert pairing.draws.mean() == pytest.approx((n + 1) / (n + 2), abs=0.002)


def test_without_samples_a_right_share_is_drawn_as_one(write: Writer) -> None:
    """A normal of this width has draws below 0."""
    evidence = alone(write, "exact_match", 0.05, 0.05, (0.05 * 0.95 / 19) ** 0.5)
    (pairing,) = evidence.pairings.values()
    assert pairing.draws.min() > 0
    assert pairing.draws.mean() == pytest.approx(2 / 22, abs=0.005)


@pytest.mark.parametrize(
    ("metric", "dense", "compressed"), [("f1", 1.0, 1.0), ("acc_norm", 0.5, 0.5), ("mc2", 3.0, 3.0)]
)
def test_without_samples_an_error_of_0_of_another_metric_gives_no_verdict(
    write: Writer, metric: str, dense: float, compressed: float
) -> None:
    evidence = alone(write, metric, dense, compressed, 0.0)
    (pairing,) = evidence.pairings.values()
    found = pairing.statistics
    assert (found.verdict, found.margin, found.recovery_interval) == (None, None, None)
    assert found.reason == "lm-eval's standard error is 0: log the samples (--log_samples)"
    assert found.recovery == 1
    assert any(note.startswith(f"t: no verdict: {found.reason}") for note in evidence.notes)
    assert evidence.verdict(evidence.collection.models[0].cells[0]).word == "cannot tell"


def test_another_dtype_is_said(write: Writer) -> None:
    facts(write, "dense", 0.6, record())
    facts(write, "w", 0.6, record("wanda", requested_sparsity=0.2, dtype="float16"))
    evidence = gather(collect([write.folder]), FAST)
    assert any("dtype differs: bfloat16 against float16" in note for note in evidence.notes)


def test_a_dense_score_of_zero_has_no_verdict(write: Writer) -> None:
    facts(write, "dense", 0.0, record())
    facts(write, "w", 0.0, record("wanda", requested_sparsity=0.2))
    evidence = gather(collect([write.folder]), FAST)
    (pairing,) = evidence.pairings.values()
    assert pairing.statistics.verdict is None
    assert any("nothing to lose" in note for note in evidence.notes)


def test_nan_scores_have_no_verdict(write: Writer) -> None:
    facts(write, "dense", 0.6, record())
    broken = quiz("contains", 0.5)
    broken[0]["contains"] = float("nan")
    kick = record("wanda", requested_sparsity=0.2)
    write("w", {"kick_freebaseqa": broken}, record=kick, directions={"contains": True})
    evidence = gather(collect([write.folder]), FAST)
    (pairing,) = evidence.pairings.values()
    assert pairing.statistics.verdict is None
    assert any("not a finite number" in note for note in evidence.notes)


def test_pairs_are_those_of_compare(grid: Path) -> None:
    from lmkick_plugin.report.compare import compare_runs

    evidence = gather(collect([grid]), FAST)
    model = evidence.collection.models[0]
    for cell in model.cells:
        folder = next(f.path.parent for f in cell.run.files)
        compared = compare_runs(load_run(str(grid / "dense")), load_run(str(folder)), rule=FAST)
        pairing = evidence.pairing(cell, "kick_freebaseqa")
        assert pairing is not None
        assert pairing.statistics == compared.rows[0].statistics
        # Draws are of the same distribution: their interval is the bootstrap's.
        low, high = compared.rows[0].statistics.interval
        ends = np.percentile(pairing.draws - pairing.dense_draws, [2.5, 97.5])
        assert ends == pytest.approx([low, high], abs=0.02)


def test_groups_stand_for_their_members(write: Writer) -> None:
    items = {name: [choice_item(i, [1, 0]) for i in range(20)] for name in ("x_a", "x_b")}
    write("dense", items, record=record(), groups={"x": ["x_a", "x_b"], "all": ["x"]})
    (cell,) = collect([write.folder]).cells
    scores = scores_of(cell)
    assert shown_tasks(scores, {"x": ["x_a", "x_b"], "all": ["x"]}) in (["x"], ["all"])
    group = next(score for score in scores if score.task == "x")
    assert (group.n, group.group) == (40, True)


def test_headlines(write: Writer) -> None:
    items = [choice_item(i, [1, 0]) for i in range(4)]
    write("dense", {"kick_mmlu": items, "other": items}, record=record())
    (cell,) = collect([write.folder]).cells
    scores = scores_of(cell)
    assert headline("kick_mmlu", scores) == ("acc", "none")
    assert headline("kick_mmlu", scores, {"kick_mmlu": "acc_greedy"}) == ("acc_greedy", "none")
    assert headline("other", scores) == ("acc", "none")
    assert headline("absent", scores) is None
    with pytest.raises(ResultsError, match="no metric nope"):
        gather(collect([write.folder]), Settings(metrics={"other": "nope"}))
    with pytest.raises(ResultsError, match="no task absent"):
        gather(collect([write.folder]), Settings(metrics={"absent": "acc"}))


@pytest.mark.parametrize(
    ("variant", "name"),
    [({"adapter": "me/lora"}, "{} + lora"), ({"revision": "v2"}, "{} @ v2"),
     ({"subfolder": "small"}, "{} / small")],
)  # fmt: skip
def test_a_variant_of_a_model_is_a_model_of_its_own(
    write: Writer, variant: dict[str, str], name: str
) -> None:
    """Not the baseline of the model without; the newest dense run would be."""
    facts(write, "dense", 0.3, record())
    facts(write, "pruned", 0.3, record("magnitude", requested_sparsity=0.3))
    facts(write, "variant", 0.9, {**record(), **variant})
    plain, other = collect([write.folder]).models
    assert plain.dense is not None
    assert (plain.dense.record.get("adapter"), len(plain.cells)) == (None, 1)
    assert other.dense is not None
    assert (other.name, other.cells) == (name.format(plain.name), ())
    assert other.dense.label == f"{other.name} dense"


def test_a_checkpoint_compressed_twice_is_neither_pruned_nor_quantized_alone(
    write: Writer,
) -> None:
    facts(write, "dense", 0.6, record())
    step = {"compressor": "wanda", "pattern": "2:4", "requested_sparsity": 0.5}
    twice = {**record("rtn"), "num_bits": 8, "earlier": [step]}
    facts(write, "twice", 0.3, twice)
    (model,) = collect([write.folder]).models
    (cell,) = model.cells
    assert (cell.pruned, cell.quantized, cell.dense) == (False, False, False)
    assert cell.short == "wanda 2:4, then rtn 8 bits"


def test_matrices_that_fell_back_are_noted(write: Writer) -> None:
    facts(write, "dense", 0.6, record())
    kick = {**record("gptq"), "num_bits": 4, "layer_summary": {"matrices": 300, "notes": 270}}
    facts(write, "gptq", 0.5, kick)
    found = collect([write.folder])
    assert any("270 of 300 matrices of gptq fell back" in note for note in found.notes)


def test_every_field_of_the_record_is_a_column() -> None:
    tree = ast.parse(Path(record_module.__file__).read_text(encoding="utf-8"))
    built = next(n for n in ast.walk(tree) if getattr(n, "name", None) == "build_record")
    (returned,) = [n.value for n in ast.walk(built) if isinstance(n, ast.Return)]
    assert isinstance(returned, ast.Dict)
    keys = [ast.literal_eval(key) for key in returned.keys if key is not None]
    assert len(keys) > 30
    assert {*keys, *OWN_SETTINGS} == {*RECORD_FIELDS, "layers"}


def test_a_checkpoint_pruned_by_others_has_the_zeros_it_has(write: Writer) -> None:
    facts(write, "dense", 0.6, record())
    kick = {**record(), "compressor": "pruned", "pattern": "2:4", "achieved_sparsity": 0.50001}
    other = facts(write, "theirs", 0.3, kick | {"base_model": "theirs"})
    (model,) = collect([write.folder], labels={other: "base_model=big-7b"}).models
    (cell,) = model.cells
    assert (cell.sparsity, cell.pattern, cell.pruned) == (0.5, "2:4", True)
