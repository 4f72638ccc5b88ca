"""Fixtures of the snapshot tests: places to keep snapshots."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import s3_server as s3
from .s3_server import S3Server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A server for S3 that stays; tests take a `new_bucket` each. They are marked `s3`."""
    if s3.MISSING:
        pytest.skip(f"s3: pip install {s3.MISSING} for an S3 server")
    server = S3Server()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_s3_server() -> Iterator[S3Server]:
    """A server for S3 that a test may kill."""
    if s3.MISSING:
        pytest.skip(f"s3: pip install {s3.MISSING} for an S3 server")
    server = S3Server()
    server.start()
    yield server
    server.stop()
