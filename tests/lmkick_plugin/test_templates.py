# SPDX-License-Identifier: Apache-2.0
"""Templates compiled once make the prompts that templates compiled each time make."""

from __future__ import annotations

from lm_eval import utils

from lmkick_plugin.templates import compile_once


def test_prompts_are_the_same_and_compiled_once() -> None:
    compile_once()
    before = utils.env.from_string.cache_info()
    template = "{{question.strip()}} {% if shots %}{{shots | length}}{% endif %}\n"
    documents = [{"question": f" {n} ", "shots": [n] * n} for n in range(5)]
    made = [utils.apply_template(template, doc) for doc in documents]
    fresh = utils.env.overlay()
    assert made == [type(fresh).from_string(fresh, template).render(**doc) for doc in documents]
    assert made[3] == "3 3\n"
    after = utils.env.from_string.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 4)


def test_a_second_call_changes_nothing() -> None:
    compile_once()
    once = utils.env.from_string
    compile_once()
    assert utils.env.from_string is once


def test_other_ways_to_call_it_are_left_alone() -> None:
    compile_once()
    template = utils.env.from_string("{{number}} {{other}}", globals={"other": 2})
    assert template.render(number=1) == "1 2"
