"""The kernels a parity test runs on: each kind in turn, or both to be compared."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.parity import twins

NOT_BUILT = "the native kernels are not built (EVENTCORE_PURE)"


@pytest.fixture(scope="session", params=["native", "pure"])
def kernels(request: pytest.FixtureRequest) -> SimpleNamespace:
    """One kind of kernels: `kernels.batch`, `kernels.encode`, ..."""
    loaded = twins.load(request.param)
    if loaded is None:
        pytest.skip(NOT_BUILT)
    return loaded


@pytest.fixture(scope="session")
def pair() -> tuple[SimpleNamespace, SimpleNamespace]:
    """(native, pure), for tests that compare them."""
    native, pure = twins.load("native"), twins.load("pure")
    if native is None or pure is None:
        pytest.skip(NOT_BUILT)
    return native, pure
