"""The environment of this process, as a whole."""

from __future__ import annotations

import os

__all__ = ["environment"]


def environment() -> dict[str, str]:
    """A copy of `os.environ`, though other threads may change it meanwhile."""
    # 1. `dict(os.environ)` takes all names. 2. Another thread deletes a variable. 3. To look that up is a KeyError.
    # test_the_environment_may_change_while_it_is_copied
    get = os.environ.get
    return {name: value for name in os.environ if (value := get(name)) is not None}
