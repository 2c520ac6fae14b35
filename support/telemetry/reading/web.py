"""HTTP GET with retries, and errors in one sentence that never show a password or a key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from support.errors import SourceError

__all__ = ["TIMEOUT_SECONDS", "get", "json_of", "public_address", "session_with_retries"]

TIMEOUT_SECONDS = 10.0
RETRY_STATUS = (429, 500, 502, 503, 504)
CONNECTIONS = 32


def session_with_retries(retries: int, backoff_seconds: float) -> requests.Session:
    """A session that repeats a GET after a timeout, a lost connection, 429 or 5xx, waiting twice as long each time."""
    retry = Retry(
        total=retries,
        backoff_factor=backoff_seconds,
        status_forcelist=RETRY_STATUS,
        allowed_methods=["GET"],
        raise_on_status=False,
    )
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=CONNECTIONS))
    return session


def get(
    session: requests.Session,
    url: str,
    timeout_seconds: float,
    http_headers: Mapping[str, str] | None,
    params: Mapping[str, str] | None = None,
) -> requests.Response:
    """The answer of any status; SourceError if there is none in time."""
    try:
        return session.get(url, params=params, headers=http_headers, timeout=timeout_seconds)
    except requests.RequestException as error:
        raise SourceError(
            f"{public_address(url)}: does not answer within {timeout_seconds:g} s ({type(error).__name__}). Check address and network."
        ) from None


def json_of(answer: requests.Response, name: str) -> Any:
    """The parsed JSON of an answer; SourceError for another content or missing credentials."""
    if answer.status_code in (401, 403):
        raise SourceError(f"{name}: answers {answer.status_code}. Give the credentials with http_headers=.")
    try:
        return answer.json()
    except requests.JSONDecodeError:
        raise SourceError(f"{name}: answers {answer.status_code} without JSON. Check the address.") from None


def public_address(url: str) -> str:
    """The address without user, password and query, which may hold a key.

    Example:
        >>> public_address("https://me:secret@host:9090/metrics?key=1")
        'https://host:9090/metrics'
        >>> public_address("data/my file.csv")
        'data/my file.csv'
    """
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
