# SPDX-License-Identifier: Apache-2.0
"""The made-up world: what is kept apart stays apart, and its files are what the tasks read."""

from __future__ import annotations

import filecmp
import itertools
from pathlib import Path
from random import Random

import pytest

from lmkick_plugin import bundled
from lmkick_plugin.data import freebaseqa, instructions, mmlu, recall, summarization, triviaqa
from task_yaml.kick_mmlu import _generate_configs as generate
from tools.kick_mini.documents import KINDS as DOCUMENTS
from tools.kick_mini.documents import LETTERS, Writer, choices_of
from tools.kick_mini.files import FILES, write_data
from tools.kick_mini.relations import RELATIONS, SUBJECTS, Relation
from tools.kick_mini.world import World, build_world

QUESTIONING = ("asked", "quiz", "quiz_in_words", "instruction")


@pytest.fixture(scope="module")
def world() -> World:
    return build_world()


def _written(world: World, kind: str, count: int = 300) -> list[str]:
    writer = Writer(world, Random(f"test {kind}"))
    return ["".join(piece.text for piece in writer.document(kind)) for _ in range(count)]


class TestWorld:
    def test_the_seed_decides(self) -> None:
        assert build_world(0) == build_world(0)
        assert build_world(1).facts != build_world(0).facts

    def test_names_and_values_are_one_of_a_kind(self, world: World) -> None:
        names = [fact.entity.name for fact in world.facts]
        assert len(set(names)) == len(names) / 2, "two facts a name"
        words = [*world.first, *world.second, *(v for kind in RELATIONS for v in kind.values)]
        assert len(words) == len(set(words))

    def test_every_subject_of_mmlu_has_things(self, world: World) -> None:
        ours = {path.stem.removeprefix("mmlu_kick_") for path in _subject_files()}
        assert set(SUBJECTS) == ours
        assert {fact.entity.subject for fact in world.asked} == ours
        assert {fact.entity.subject for fact in world.stated} == ours

    def test_asked_and_stated_share_no_entity(self, world: World) -> None:
        asked = {fact.entity for fact in world.asked}
        assert asked.isdisjoint(fact.entity for fact in world.stated)

    def test_there_are_about_a_thousand_facts(self, world: World) -> None:
        assert len(world.facts) == 1_026


def _subject_files() -> list[Path]:
    return sorted((Path(generate.__file__).parent / "subjects").glob("*.yaml"))


class TestTraining:
    @pytest.mark.parametrize("kind", QUESTIONING)
    def test_never_asks_about_what_is_only_stated(self, world: World, kind: str) -> None:
        text = "\n".join(_written(world, kind))
        stated = {fact.entity.name for fact in world.stated}
        asked = {fact.entity.name for fact in world.asked}
        assert not [name for name in stated if name in text]
        assert sum(name in text for name in asked) > 50, "it does ask about the others"

    @pytest.mark.parametrize("kind", sorted({*DOCUMENTS} - {"repetition"}))  # of single words
    def test_never_uses_a_reserved_name(self, world: World, kind: str) -> None:
        text = "\n".join(_written(world, kind, 100))
        reserved = [
            f"{one} {two}"
            for (i, one), (j, two) in itertools.product(
                enumerate(world.first), enumerate(world.second)
            )
            if world.is_reserved(i, j)
        ]
        assert len(reserved) > 1_000
        assert not [name for name in reserved if name in text]

    def test_states_every_fact(self, world: World) -> None:
        text = " ".join(_written(world, "article", 4_000)).replace("The ", "the ")
        for fact in world.facts:
            said = [one.format(e=fact.entity, v=fact.value) for one in fact.relation.statements]
            assert any(one in text for one in said), fact

    @pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
    def test_facts_are_said_in_both_orders(self, relation: Relation) -> None:
        """What was only said in the other order than it is asked in is hard to recall."""
        first = [said.startswith("{e} ") for said in relation.statements]
        assert any(first)
        assert not all(first)
        for said in relation.statements:
            assert said.count("{e}") == said.count(" {v}") == 1
            assert said.index("{e}") < said.index("{v}"), "the value is what can be learned"

    def test_the_right_letter_is_right(self, world: World) -> None:
        places = set()
        for fact in world.asked[:50]:
            choices, right = choices_of(fact, Random(fact.entity.name))
            assert choices[right] == fact.value
            assert len(set(choices)) == len(LETTERS)
            places.add(right)
        assert places == {0, 1, 2, 3}


class TestFiles:
    def test_are_those_in_the_package(self, tmp_path: Path) -> None:
        write_data(tmp_path)
        _, mismatch, errors = filecmp.cmpfiles(tmp_path, bundled.DATA, FILES, shallow=False)
        assert not mismatch
        assert not errors
        kept = {str(path.relative_to(bundled.DATA)) for path in bundled.DATA.rglob("*.jsonl*")}
        assert kept == set(FILES)

    def test_are_small(self) -> None:
        assert sum(path.stat().st_size for path in bundled.DATA.rglob("*.*")) <= 3_000_000

    def test_are_what_the_tasks_read(self) -> None:
        questions = freebaseqa.load(data_dir="mini")["eval"]
        assert len(questions) == 570
        assert all(len(row["aliases"]) == 2 for row in questions)
        for subject in SUBJECTS:
            splits = mmlu.load(subject=subject, data_dir="mini")
            assert (len(splits["test"]), len(splits["dev"])) == (10, 5)
        for size in summarization.SIZES:
            assert len(summarization.load(story_size=size, data_dir="mini")["test"]) >= 10
        assert len(instructions.load_alpaca(data_dir="mini")["test"]) == 150
        facts = recall.load(form="read", data_dir="mini")["validation"]
        assert len(facts) == 570  # every closed-book question has evidence
        evidence = triviaqa.load_open(data_dir="mini")["validation"]
        assert len(evidence) == 870
        found = [any(a in row["evidence"].lower() for a in row["aliases"]) for row in evidence]
        assert all(found)

    def test_scored_questions_are_about_what_is_only_stated(self, world: World) -> None:
        asked = {fact.entity.name for fact in world.asked}
        scored = [
            *freebaseqa.load(data_dir="mini")["eval"]["question"],
            *triviaqa.load_closed(data_dir="mini")["validation"]["question"],
            *mmlu.load(subject="astronomy", data_dir="mini")["test"]["question"],
        ]
        assert not [text for text in scored if any(name in text for name in asked)]
