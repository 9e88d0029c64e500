# SPDX-License-Identifier: Apache-2.0
"""The `kick` record: what a run's weights were."""
