# SPDX-License-Identifier: Apache-2.0
"""Measured cost of running a model: tokens per second, time to first token, memory, bytes."""
