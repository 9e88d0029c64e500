# SPDX-License-Identifier: Apache-2.0
"""Task definitions for lm-eval, one folder per task; lm-eval scans this folder for YAML files."""
