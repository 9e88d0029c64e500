# SPDX-License-Identifier: Apache-2.0
"""How kick-mini is made: its world, data, tokenizer and weights."""
