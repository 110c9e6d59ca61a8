"""What the tests of sessions share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from perdition.session.poller import Poller


@pytest.fixture
def poller() -> Iterator[Poller]:
    """One whose callbacks may not fail."""

    def failed(error: Exception, call: object) -> None:
        raise error

    made = Poller(failed=failed, after=lambda crowded: None)
    yield made
    made.close()
