# SPDX-License-Identifier: Apache-2.0
"""The dense model: checks, placement, compression, dense reference."""
