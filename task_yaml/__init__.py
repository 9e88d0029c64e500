# SPDX-License-Identifier: Apache-2.0
"""The tasks of lmkick: a folder of YAML files that lm-eval scans."""
