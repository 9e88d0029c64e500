# SPDX-License-Identifier: Apache-2.0
"""Prefix-sharing log-likelihoods and continuous batching for lm-eval's ``hf`` model."""
