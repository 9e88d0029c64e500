# SPDX-License-Identifier: Apache-2.0
"""Per-document scores and their aggregation, without a model."""
