# SPDX-License-Identifier: Apache-2.0
"""Task classes for lm-eval."""
