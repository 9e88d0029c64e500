# SPDX-License-Identifier: Apache-2.0
"""Reader of lm-eval's output: results files, samples, runs."""
