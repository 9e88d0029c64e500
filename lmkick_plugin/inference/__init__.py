# SPDX-License-Identifier: Apache-2.0
"""Fast evaluation: lm-eval's ``hf`` model with every question at the cost of its own tokens.

- ``prefixes``, ``prefix_tree``: which requests share which tokens, and what is worth computing
  once (no torch);
- ``shared_cache``: a prefix's keys and values, read by many questions at once;
- ``positions``: log-probabilities at chosen positions only, in bounded memory;
- ``steps``, ``scores``: one forward pass after the other, and its answers;
- ``exchange``: requests shared between processes by their tokens;
- ``encoding``: texts encoded many at a time;
- ``scoring``: what lm-eval calls: log-likelihoods, plain and rolling;
- ``generation``: what it calls for answers; ``greedy_kinds``, ``decoding``, ``running_batch``,
  ``row_cache`` and ``stop_strings`` are its parts;
- ``batch_sizes``: rows of a batch, given or found.
"""
