# SPDX-License-Identifier: Apache-2.0
"""Programs for maintainers; not part of the wheel."""
