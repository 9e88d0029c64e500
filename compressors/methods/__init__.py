# SPDX-License-Identifier: Apache-2.0
"""One compression method a file."""
