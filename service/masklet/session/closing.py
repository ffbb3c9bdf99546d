"""Letting go of a memory bank, whatever happens meanwhile."""

from __future__ import annotations

import asyncio

from masklet.backends.base import Backend


async def close_bank(backend: Backend, session_id: str) -> None:
    """`backend.close`, carried through even if the caller is cancelled: nobody else would ever close the bank."""
    closing = asyncio.ensure_future(backend.close(session_id))
    try:
        await asyncio.shield(closing)
    except asyncio.CancelledError:
        await asyncio.wait([closing])
        if not closing.cancelled():
            closing.exception()  # seen: the cancellation is what counts now
        raise
