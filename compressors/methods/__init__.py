# SPDX-License-Identifier: Apache-2.0
"""Compression methods, one file each."""
