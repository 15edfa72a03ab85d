"""The public surface is what `__all__` says, no more and no less."""

from __future__ import annotations

from types import ModuleType

import easyanim_client


def test_the_clients_public_names_are_listed_and_sorted() -> None:
    public = [
        name
        for name, value in vars(easyanim_client).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    ]

    assert easyanim_client.__all__ == sorted(public)
