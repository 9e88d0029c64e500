# SPDX-License-Identifier: Apache-2.0
"""Why a run is not compared on a task, in words for a headline and a banner; notes say more."""

from __future__ import annotations

from lmkick_plugin.report.item_pairs import MismatchError
from lmkick_plugin.results.samples import SamplesError

__all__ = ["ASKED", "INCOMPLETE", "NAN", "OTHER", "UNREADABLE", "UNSAVED", "of_error"]

ASKED = "asked otherwise than dense (shots, limit, template, data; see notes)"
INCOMPLETE = "a part of the task was not evaluated (see notes)"
NAN = "items are NaN (see notes)"
OTHER = "results cannot be used (see notes)"
UNREADABLE = "samples cannot be read (see notes)"
UNSAVED = "neither samples (--log_samples) nor standard errors were saved"


def of_error(error: Exception) -> str:
    """The reason that an error stands for."""
    if isinstance(error, MismatchError):
        return ASKED
    return UNREADABLE if isinstance(error, SamplesError | OSError) else OTHER
