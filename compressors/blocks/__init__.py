# SPDX-License-Identifier: Apache-2.0
"""Decoder blocks of a model: find, run and compress them one by one."""
