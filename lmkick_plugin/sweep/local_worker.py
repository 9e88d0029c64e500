# SPDX-License-Identifier: Apache-2.0
"""Worker process of a sweep: ``python -m lmkick_plugin.sweep.local_worker``."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import IO

from lmkick_plugin.sweep.config import SweepConfig
from lmkick_plugin.sweep.jobs import CellWorker, Job

__all__ = ["main"]


def main() -> None:
    """Run cells from standard input until it closes."""
    # Whatever prints must not end up among the messages.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    config = SweepConfig.from_json(lines.get())
    worker = CellWorker(config)
    while True:
        job = Job.from_json(lines.get())

        def on_task_end(task: str, state: str, seconds: float) -> None:
            _say(out, {"event": "task", "task": task, "state": state, "seconds": seconds})

        worker.run(job, on_task_end)
        _say(out, {"event": "ended"})


def _listen(lines: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)  # the sweep is gone, and the main thread may run for hours


def _say(out: IO[str], message: dict[str, object]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
