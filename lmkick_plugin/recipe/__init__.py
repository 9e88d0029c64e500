# SPDX-License-Identifier: Apache-2.0
"""Arguments of a run, read and checked: a frozen recipe."""
