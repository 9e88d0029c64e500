# SPDX-License-Identifier: Apache-2.0
"""``lmkick study``: what the calibration text, its size and its seed do to a compressed model."""
