# SPDX-License-Identifier: Apache-2.0
"""kick-mini's shape and its tokenizer."""

from __future__ import annotations

from random import Random
from typing import Any

from tools.kick_mini.chat import END_OF_TURN, SPECIAL_TOKENS, TEMPLATE
from tools.kick_mini.documents import Writer
from tools.kick_mini.start import start_with_induction
from tools.kick_mini.world import World

__all__ = ["CONTEXT", "build_model", "build_tokenizer"]

CONTEXT = 2048
_VOCABULARY = 2048
_DOCUMENTS_PER_KIND = 1_500
# Between them, these have every word.
_KINDS = (
    "article",
    "asked",
    "quiz",
    "quiz_in_view",
    "repetition",
    "easy_reading",
    "reading",
    "summary",
    "instruction",
)


def build_tokenizer(world: World, seed: int) -> Any:
    """Train a byte-level BPE tokenizer on documents about a world.

    Args:
        world: What they are about. Every name and value becomes a single token: copying an answer
            is then one step, which a model of this size can learn.
        seed: Source of chance.

    Returns:
        A ``PreTrainedTokenizerFast`` with a chat template.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    random = Random(f"tokenizer {seed}")
    writer = Writer(world, random)
    texts = [
        "".join(segment.text for segment in writer.document(kind))
        for kind in _KINDS
        for _ in range(_DOCUMENTS_PER_KIND)
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TURN,
        chat_template=TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: Any, seed: int) -> Any:
    """A Llama as training finds it, in float32; see :mod:`tools.kick_mini.start`.

    Args:
        tokenizer: From :func:`build_tokenizer`.
        seed: Source of chance.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    end = int(tokenizer.eos_token_id)
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    start_with_induction(model, seed)
    return model
