# SPDX-License-Identifier: Apache-2.0
"""Fetch one file by URL into the Hugging Face cache, whole or not at all.

Only for data that the Hub has not got in a form that can still be loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from compressors.errors import LmkickError

__all__ = ["FetchError", "RemoteFile", "cache_folder", "fetch"]

_LOG = logging.getLogger(__name__)
_CHUNK = 1 << 20
_TIMEOUT = 60.0
_WAITS = (1.0, 4.0)  # seconds before the second and the third attempt


class FetchError(LmkickError, OSError):
    """A file could not be fetched; the message says why, the caller what to do instead."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of the web.

    Attributes:
        url: where it is.
        sha256: of the file as it was when this was written. Its authors may have corrected it
            since, so another sum is a warning; whether the content will do its reader decides.
        kept_as: name of the local copy, where the URL's last part says too little.
    """

    url: str
    sha256: str
    kept_as: str = ""

    @property
    def name(self) -> str:
        """Name of the local copy: the last part of the URL, unless another was chosen."""
        return self.kept_as or self.url.rsplit("/", 1)[-1]


def cache_folder() -> Path:
    """Where fetched files are kept: beside the data sets of ``HF_DATASETS_CACHE``."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "lmkick"


def fetch(remote: RemoteFile) -> Path:
    """Return the local copy of a file, fetching it where there is none.

    The copy appears under its name only when all of it has arrived, so neither an interrupted
    download nor a second process can leave a part behind.

    Raises:
        FetchError: No network, offline mode, an HTTP error, or fewer bytes than were announced.
    """
    folder = cache_folder()
    target = folder / remote.name
    if target.is_file():
        return target
    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        if os.environ.get(variable, "").upper() in {"1", "ON", "YES", "TRUE"}:
            raise FetchError(f"{variable} is set and {target} does not exist")
    folder.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=folder, prefix=f"{remote.name}.")
    os.close(handle)
    try:
        digest = _download_with_retries(remote.url, Path(part))
        if digest != remote.sha256:
            _LOG.warning(
                "%s has SHA-256 %s, not the %s known to this version: it may have been corrected "
                "by its authors. Scores may differ from those of the earlier file.",
                remote.url,
                digest,
                remote.sha256,
            )
        Path(part).replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(part).unlink()
    return target


def _download_with_retries(url: str, part: Path) -> str:
    """Write ``url`` to ``part``; trouble on the way or on the server's side is tried again."""
    for wait in (*_WAITS, None):
        try:
            return _download(url, part)
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection
            if error.code < 500 or wait is None:
                raise FetchError(f"HTTP status {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            if wait is None:
                raise FetchError(str(getattr(error, "reason", error))) from error
        time.sleep(wait)
    raise FetchError("not tried")  # pragma: no cover - the last wait is None, which raises above


def _download(url: str, part: Path) -> str:
    """One attempt; returns the SHA-256 of what was written."""
    digest = hashlib.sha256()
    size = 0
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, part.open("wb") as out:
        while chunk := answer.read(_CHUNK):
            out.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        announced = answer.headers.get("Content-Length")
    if announced is not None and size != int(announced):
        raise FetchError(f"{size:,} of {int(announced):,} bytes arrived")
    return digest.hexdigest()
