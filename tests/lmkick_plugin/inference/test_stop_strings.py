# SPDX-License-Identifier: Apache-2.0
"""Stop strings: found at the token at which lm-eval's own criterion finds them, and cheaply."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.models.utils_hf import stop_sequences_criteria

from lmkick_plugin.inference.stop_strings import StopStrings
from tests.conftest import make_tiny_tokenizer


@cache
def tokenizer_of(kind: str) -> Any:
    """``fuse``: characters. ``bytes``: GPT-2's. ``fallback``: Llama's. ``words``: BERT's way."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if kind == "fuse":
        return make_tiny_tokenizer()
    cleaned = kind == "words"
    if kind == "bytes":
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        merges = [("a", "b"), ("ab", "a"), ("Ġ", "a"), ("b", "Ċ"), ("Ċ", "Ċ"), ("Ã", "©")]
        vocabulary = ["<eos>", *letters, *("".join(pair) for pair in merges)]
        numbered = {token: number for number, token in enumerate(vocabulary)}
        backend = Tokenizer(models.BPE(vocab=numbered, merges=merges))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    elif kind == "fallback":
        pieces = ["▁", "a", "b", "ab", "▁a", "▁ab", "\n", "é", "b▁", "aba"]
        vocabulary = ["<eos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
        numbered = {token: number for number, token in enumerate(vocabulary)}
        merges = [("a", "b"), ("▁", "a"), ("▁", "ab"), ("b", "▁"), ("ab", "a")]
        backend = Tokenizer(
            models.BPE(vocab=numbered, merges=merges, unk_token="<unk>", byte_fallback=True)
        )
        backend.normalizer = None
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
        backend.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(content=" ", left=1, right=0),
            ]
        )
    else:
        vocabulary = ["<eos>", "<unk>", "a", "b", "##a", "##b", ".", "'", "s", "n", "é"]
        numbered = {token: number for number, token in enumerate(vocabulary)}
        backend = Tokenizer(models.WordPiece(vocab=numbered, unk_token="<unk>"))
        backend.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", clean_up_tokenization_spaces=cleaned
    )


def ends_by_lm_eval(tokenizer: Any, stops: list[str], tokens: list[int]) -> int:
    """After how many tokens lm-eval's criterion ends a batch of one (0: it does not)."""
    criteria = stop_sequences_criteria(tokenizer, stops, 0, 1)
    for length in range(1, len(tokens) + 1):
        # Each of the criteria is asked at every step, as generate does it.
        met = [criterion(torch.tensor([tokens[:length]]), None) for criterion in criteria]
        if any(met):
            return length
    return 0


def ends_here(tokenizer: Any, stops: list[str], tokens: list[int]) -> int:
    found = StopStrings(tokenizer, stops)
    lengths = range(1, len(tokens) + 1)
    return next((length for length in lengths if found.reached(tokens[:length])), 0)


KINDS = ("fuse", "bytes", "fallback", "words")
#: Characters that make near misses likely, and some that take several tokens.
ALPHABET = "ab \n.'sé€n"


@st.composite
def generations(draw: st.DrawFn) -> tuple[str, list[str], list[int]]:
    kind = draw(st.sampled_from(KINDS))
    tokenizer = tokenizer_of(kind)
    text = st.text(ALPHABET, min_size=1, max_size=6)
    # Tokens of texts, mixed with any others: half a character, a special token, a byte.
    parts = draw(st.lists(st.one_of(text, st.integers(0, len(tokenizer) - 1)), max_size=7))
    tokens: list[int] = []
    for part in parts:
        if isinstance(part, int):
            tokens.append(part)
        else:
            tokens += tokenizer.encode(part, add_special_tokens=False)
    whole = tokenizer.decode(tokens)
    stops = draw(st.lists(st.one_of(text, st.just("<eos>"), st.just("")), max_size=3))
    if whole:
        start = draw(st.integers(0, len(whole) - 1))
        stops.append(whole[start : start + draw(st.integers(1, 4))])
    return kind, stops, tokens


@settings(max_examples=300, deadline=None)
@given(generations())
def test_ends_where_lm_eval_ends(case: tuple[str, list[str], list[int]]) -> None:
    kind, stops, tokens = case
    tokenizer = tokenizer_of(kind)
    assert ends_here(tokenizer, stops, tokens) == ends_by_lm_eval(tokenizer, stops, tokens)


@pytest.mark.parametrize(
    ("kind", "text", "stops", "ending"),
    [
        ("fuse", "some text\nmore", ["\n"], "some text\n"),
        ("fuse", "xyz", ["x"], "x"),  # at the first token
        ("bytes", "aab\n\nb", ["\n\n"], "aab\n\n"),  # over the border of two tokens
        ("bytes", "aé€b", ["€"], "aé€"),  # three tokens for one character
        ("fallback", "b é€ b", ["é€"], "b é€"),
        ("bytes", "ababab", ["bab", "aba"], "abab"),  # overlapping
        ("fuse", "abc", [], "abc"),
        ("fuse", "abc", [""], "a"),
    ],
)
def test_known_cases(kind: str, text: str, stops: list[str], ending: str) -> None:
    tokenizer = tokenizer_of(kind)
    tokens = tokenizer.encode(text, add_special_tokens=False)
    length = ends_here(tokenizer, stops, tokens) or len(tokens)
    assert tokenizer.decode(tokens[:length]).strip() == ending.strip()
    assert length == (ends_by_lm_eval(tokenizer, stops, tokens) or len(tokens))


def test_decodes_only_what_may_be_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tiny_tokenizer()
    stops = StopStrings(tokenizer, ["\n\n", "Q:"])
    tokens = tokenizer.encode("a long answer, with nothing in it that ends it" * 5)
    reached = [stops.reached(tokens[:length]) for length in range(1, len(tokens) + 1)]
    calls = []
    decode = tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", lambda ids: calls.append(ids) or decode(ids))
    again = [stops.reached(tokens[:length]) for length in range(1, len(tokens) + 1)]
    assert not any(reached)
    assert not any(again)
    assert not calls  # every token has been seen before, and none can end a stop string
    assert stops.reached([*tokens, *tokenizer.encode("Q:", add_special_tokens=False)])
    assert calls
