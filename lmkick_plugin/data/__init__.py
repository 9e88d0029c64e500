# SPDX-License-Identifier: Apache-2.0
"""Rows of the tasks and calibration text, from the Hub or a data directory."""
