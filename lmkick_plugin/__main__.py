# SPDX-License-Identifier: Apache-2.0
"""``python -m lmkick_plugin``: the ``lmkick`` command where its script is not installed.

Also what ``accelerate launch -m lmkick_plugin run ...`` and ``torchrun`` start.
"""

from __future__ import annotations

import sys

from lmkick_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main())
