# SPDX-License-Identifier: Apache-2.0
"""Scores read from a judge's reply."""
