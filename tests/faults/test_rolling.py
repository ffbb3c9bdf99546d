"""A short rolling restart; the long one is `make rolling`."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.faults.rolling import Plan, report, roll

from masklet.types import StateOrigin


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.timeout(300)
async def test_two_fronts_and_two_tritons_restarted_in_turn_lose_nothing(tmp_path: Path) -> None:
    accounts = await roll(Plan(streams=2, rate_hz=3.0, pause_s=0.5), tmp_path)
    assert report(accounts), "see above"
    assert all(len(account.masks) > 10 for account in accounts)
    origins = {origin for account in accounts for origin in account.resumed | account.origins}
    assert origins >= {StateOrigin.INTACT, StateOrigin.MIGRATED}
