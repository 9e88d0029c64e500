# SPDX-License-Identifier: Apache-2.0
"""Decoder blocks of a model: finding, running and compressing them one by one."""
