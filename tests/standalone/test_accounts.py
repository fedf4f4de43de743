"""Servers of tests run sessions as an account that no other test makes and removes meanwhile."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import running_standalone

from benchmarks import stack


@pytest.mark.parametrize("account", [running_standalone.account, stack.account])
def test_accounts_that_pass_are_none(account: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    there = [SimpleNamespace(pw_name=name, pw_uid=uid) for name, uid in (("root", 0), ("uftp-t12a1", 1001))]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwall", lambda: there)
    assert account() == "nobody"
    there.append(SimpleNamespace(pw_name="jo", pw_uid=1002))
    assert account() == "jo"
