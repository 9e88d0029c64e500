# SPDX-License-Identifier: Apache-2.0
"""Reading what lm-eval wrote: results files, samples, runs."""
