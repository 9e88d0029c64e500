# SPDX-License-Identifier: Apache-2.0
"""Checks before any weights are loaded, for ``lmkick`` and ``lm_eval run`` alike."""
