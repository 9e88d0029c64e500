# SPDX-License-Identifier: Apache-2.0
"""A layer that is added to kick-mini on the way, and looks up which letter stands before a choice.

A multiple choice asks for two things in a row: to know the answer, and to find its letter. The
second is of no use before the first, and the first is not learned from letters before the second:
from letters alone, a model of this size stayed at chance for as long as was tried. So training
asks for choices in words first, until the answer stands in the residual stream where a question
ends. Then comes this layer, whose attention starts from least squares on the model's own
activations: queries say which answer was found, keys which choice stands here, values what letter
is before it. From there on letters are asked, and everything is trained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tools.kick_mini.documents import LETTERS, Document, Writer
from tools.kick_mini.relations import RELATIONS
from tools.kick_mini.world import World

__all__ = ["add_choosing_layer", "append_layer"]

_KINDS = ("quiz_in_words", "words_in_view")
_DOCUMENTS = 1_000
_RIDGE = 1e-3
"""Of the least squares, as a share of the mean of what it is added to."""
_MATCH, _CHOICE, _NEARNESS = 25.0, 4.0, 2.0
"""Gain of a head's logits where the choice that is the answer stands, where any choice stands,
and, by each of the frequencies below, where it is near."""
_NEAR, _SLOW = range(5, 7), 7
"""Rotary frequencies that tell near from far, and the first that hardly turns within a question:
the 6th and 7th of 16 turn once in 112 and 199 tokens, and a question has about 35."""
_WRITTEN = 0.5
"""Length of what a head writes for a letter, as a share of the residual stream's length."""


class _Marks(NamedTuple):
    """A row of tokens, and what is known of some of them.

    Attributes:
        tokens: The row.
        choices: Where a choice stands, its letter's number, and what it says.
        answers: Where an answer is about to be given, and which.
    """

    tokens: list[int]
    choices: list[tuple[int, int, str]]
    answers: list[tuple[int, str]]


def append_layer(model: Any) -> None:
    """Add a layer behind the last one, which changes nothing yet.

    Args:
        model: A ``LlamaForCausalLM``; it is changed in place.
    """
    config = model.config
    config.num_hidden_layers += 1
    last = model.model.layers[-1]
    layer = type(last)(config, config.num_hidden_layers - 1).to(last.self_attn.q_proj.weight)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
            else:
                parameter.normal_(0, config.initializer_range)
    model.model.layers.append(layer)


@torch.no_grad()
def add_choosing_layer(model: Any, tokenizer: Any, world: World, seed: int) -> None:
    """Add the layer to a model that answers multiple choice in words.

    Args:
        model: kick-mini on its way; it is changed in place.
        tokenizer: Its tokenizer.
        world: What its documents are about.
        seed: Source of chance.
    """
    random = Random(f"choosing {seed}")
    torch.manual_seed(seed)
    embedding = model.model.embed_tokens.weight
    writer = Writer(world, random)
    rows = [_marked(writer.document(random.choice(_KINDS)), tokenizer) for _ in range(_DOCUMENTS)]
    stream = torch.cat([_stream(model, row.tokens) for row in rows])
    features = stream * stream.square().mean(-1, keepdim=True).rsqrt()
    fit = _Fit(features, rows)
    append_layer(model)
    config, attention = model.config, model.model.layers[-1].self_attn
    size = config.hidden_size // config.num_attention_heads
    group = config.num_attention_heads // config.num_key_value_heads
    written = [tokenizer.encode(f" {letter}")[0] for letter in LETTERS]
    letters = normalize(embedding[written] * model.model.norm.weight, dim=-1)
    letters = (letters - letters.mean(0)) * _WRITTEN * float(stream.norm(dim=-1).mean())
    values = fit.choices([torch.eye(len(LETTERS))[letter] for letter, _ in fit.said])
    # Each group of heads shares keys and values; the first of them gets queries that fit.
    for head in range(config.num_key_value_heads):
        codes = _codes(_content(size), embedding, tokenizer, random)
        keys = slice(head * size, (head + 1) * size)
        queries = slice(head * group * size, (head * group + 1) * size)
        attention.k_proj.weight[keys] = fit.choices(
            [_with_place(codes[text], size) for _, text in fit.said]
        )
        attention.q_proj.weight[queries] = fit.answers(
            [_with_place(codes[text], size) for text in fit.found]
        )
        # The other values stay random: zeros on both sides would never learn.
        attention.v_proj.weight[keys][: len(LETTERS)] = values
        attention.o_proj.weight[:, queries][:, : len(LETTERS)] = letters.T


def _content(size: int) -> list[int]:
    """Dimensions of a head that hardly turn, without the last pair, which marks choices."""
    half = size // 2
    return [*range(_SLOW, half - 1), *range(half + _SLOW, size - 1)]


def _with_place(code: Tensor, size: int) -> Tensor:
    """A key of a choice or a query for it; their product divided by the root of ``size`` counts."""
    wanted = torch.zeros(size)
    wanted[_content(size)] = math.sqrt(_MATCH) * code
    wanted[list(_NEAR)] = math.sqrt(_NEARNESS)
    wanted[size - 1] = math.sqrt(_CHOICE)
    return wanted * math.sqrt(math.sqrt(size))


def _codes(
    dimensions: list[int], embedding: Tensor, tokenizer: Any, random: Random
) -> dict[str, Tensor]:
    """For every value random features of its embedding, of length 1 in the mean square."""
    generator = torch.Generator().manual_seed(random.randrange(2**31))
    values = [value for relation in RELATIONS for value in relation.values]
    words = embedding[[tokenizer.encode(f" {value}")[0] for value in values]].cpu()
    words = words - words.mean(0)
    codes = words @ torch.randn(words.shape[1], len(dimensions), generator=generator)
    codes = codes / codes.square().sum(-1).mean().sqrt()
    return dict(zip(values, codes, strict=True))


class _Fit:
    """Least squares from features to what is wanted at some positions, and 0 at all others.

    Attributes:
        said: Letter's number and text of every choice.
        found: Text of every answer.
    """

    def __init__(self, features: Tensor, rows: Sequence[_Marks]) -> None:
        starts = [0]
        for row in rows:
            starts.append(starts[-1] + len(row.tokens))
        placed = list(zip(starts[:-1], rows, strict=True))
        choices = [
            (start + at, letter, text) for start, row in placed for at, letter, text in row.choices
        ]
        answers = [(start + at, text) for start, row in placed for at, text in row.answers]
        self.said = [(letter, text) for _, letter, text in choices]
        self.found = [text for _, text in answers]
        self._features = features.double()
        self._at_choices = torch.tensor([at for at, *_ in choices], device=features.device)
        self._at_answers = torch.tensor([at for at, _ in answers], device=features.device)

    def choices(self, wanted: Sequence[Tensor]) -> Tensor:
        """A projection [size, features] that makes of each choice what is wanted for it."""
        return self._solve(self._at_choices, wanted)

    def answers(self, wanted: Sequence[Tensor]) -> Tensor:
        """A projection [size, features] that makes of each answer what is wanted for it."""
        return self._solve(self._at_answers, wanted)

    def _solve(self, there: Tensor, wanted: Sequence[Tensor]) -> Tensor:
        features = self._features
        # What is wanted weighs as much as that nothing is wanted elsewhere.
        weight = 1 + len(features) / len(there)
        targets = weight * torch.stack(list(wanted)).to(features)
        gram = features.T @ features + (weight - 1) * features[there].T @ features[there]
        gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
        solved: Tensor = torch.linalg.solve(gram, features[there].T @ targets)
        return solved.T.float()


def _stream(model: Any, tokens: list[int]) -> Tensor:
    """The residual stream behind the last layer, [tokens, width]."""
    kept: list[Tensor] = []

    def keep(_: Any, given: tuple[Tensor, ...]) -> None:
        kept.append(given[0][0])

    hook = model.model.norm.register_forward_pre_hook(keep)
    try:
        model.model(torch.tensor([tokens]).to(model.device), use_cache=False)
    finally:
        hook.remove()
    return kept[0]


def _marked(document: Document, tokenizer: Any) -> _Marks:
    marks = _Marks([], [], [])
    letter: int | None = None
    listed = False
    for text, weight in document:
        if letter is not None:
            marks.choices.append((len(marks.tokens), letter, text.strip()))
            letter, listed = None, True
        elif found := re.fullmatch(rf"\n([{LETTERS}])\.", text):
            letter = LETTERS.index(found[1])
        elif listed and weight and not text.startswith("\n"):
            marks.answers.append((len(marks.tokens) - 1, text.strip()))
            listed = False
        marks.tokens.extend(tokenizer.encode(text))
    return marks
