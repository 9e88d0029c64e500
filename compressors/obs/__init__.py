# SPDX-License-Identifier: Apache-2.0
"""Optimal Brain Surgeon column pass, shared by SparseGPT and GPTQ."""
