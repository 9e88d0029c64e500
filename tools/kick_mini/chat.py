# SPDX-License-Identifier: Apache-2.0
"""kick-mini's chat template."""

from __future__ import annotations

__all__ = ["END_OF_TURN", "SPECIAL_TOKENS", "TEMPLATE", "as_chat"]

END_OF_TURN = "<|endoftext|>"
_USER, _ASSISTANT = "<|user|>", "<|assistant|>"

TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|endoftext|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>\\n' }}{%- endif -%}"
)
"""For ``tokenizer.chat_template``; knows users and assistants."""

SPECIAL_TOKENS = (END_OF_TURN, _USER, _ASSISTANT)


def as_chat(prompt: str) -> tuple[str, str]:
    r"""One user's turn, up to where the answer begins, and what ends the answer.

    >>> as_chat("Hello.")
    ('<|user|>\nHello.<|endoftext|>\n<|assistant|>\n', '<|endoftext|>')
    """
    return f"{_USER}\n{prompt}{END_OF_TURN}\n{_ASSISTANT}\n", END_OF_TURN
