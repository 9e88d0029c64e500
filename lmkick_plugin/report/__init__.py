# SPDX-License-Identifier: Apache-2.0
"""From lm-eval's result files to answers: paired statistics, comparisons, tables.

Nothing here needs torch or lm-eval: results of any model, made anywhere, are read from their files.
"""
