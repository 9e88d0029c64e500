# SPDX-License-Identifier: Apache-2.0
"""OBS: the column pass (optimal brain surgeon) of SparseGPT and GPTQ."""
