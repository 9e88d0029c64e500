# SPDX-License-Identifier: Apache-2.0
"""The ``kick`` record: identity and compression of a run's weights."""
