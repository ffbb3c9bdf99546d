"""A client that does anything at any time, and what must come back for it, worked out by a model of its own."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import pytest
from tests.e2e.conftest import Served
from tests.e2e.talk import HEIGHT, JPEG, JPEGS, WIDTH, Talk, click

from masklet.v1 import segmentation_pb2 as pb

MESSAGES = 90
CORRUPT = (b"", JPEG[:100], JPEG[: len(JPEG) // 2])
FRAMES = ("frame", "corrupt")
KINDS = {"frame": 10, "corrupt": 2, "prompt": 5, "correction": 3, "remove": 2, "reset": 1, "ping": 2, "repeat": 1}


class AnyClient:
    """Sends whatever `random` says; `sent` is the kind of each request by seq, `about` the object it is about."""

    def __init__(self, talk: Talk, seed: int) -> None:
        self._talk, self._random = talk, random.Random(seed)
        self.sent: dict[int, str] = {}
        self.about: dict[int, int] = {}

    async def run(self) -> list[pb.TrackResponse]:
        """Sends all of it and returns all answers."""
        reading = asyncio.create_task(self._read())
        for kind in self._random.choices(list(KINDS), list(KINDS.values()), k=MESSAGES):
            await self._send(kind)
            if self._random.random() < 0.3:
                await asyncio.sleep(self._random.random() * 0.1)
        await self._talk.send(close=pb.Close())
        await reading
        return self._talk.said

    async def _read(self) -> None:
        while await self._talk.read() is not None:
            pass

    async def _send(self, kind: str) -> None:
        if kind == "repeat":
            self._talk.seq -= 1  # the number of the request before, which must be ignored
            await self._talk.send(reset=pb.Reset())
            return
        if kind == "correction" and self._random.random() < 0.5:
            await self._caught_up()
        seq = await self._talk.send(**self._message(kind))
        self.sent[seq] = kind

    async def _caught_up(self) -> None:
        """Waits until all frames sent are answered or reported, so that the newest is there to be corrected."""
        while (told := Ledger(self._talk.said).told) != {seq for seq in self.sent if self.sent[seq] in FRAMES}:
            await asyncio.sleep(0.01)
            assert told <= self.sent.keys()

    def _message(self, kind: str) -> dict[str, Any]:
        seq, object_id = self._talk.seq + 1, self._random.randint(1, 4)
        if kind == "frame":
            return {"frame": pb.Frame(payload=self._random.choice(JPEGS))}
        if kind == "corrupt":
            return {"frame": pb.Frame(payload=self._random.choice(CORRUPT))}
        if kind == "ping":
            return {"ping": pb.Ping(nonce=seq)}
        if kind == "reset":
            return {"reset": pb.Reset()}
        self.about[seq] = object_id
        if kind == "remove":
            return {"remove_object": pb.RemoveObject(object_id=object_id)}
        x, y = self._random.uniform(0, WIDTH), self._random.uniform(0, HEIGHT)
        return {"prompt": click(object_id, x, y, frame_seq=self._frame() if kind == "correction" else 0)}

    def _frame(self) -> int:
        """A frame answered lately, or now and then one that never was."""
        known = [one.result.frame_seq for one in self._talk.said if one.HasField("result")]
        return self._random.choice([*known[-3:], 10_000])


class Ledger:
    """All answers of one stream, by what they are about."""

    def __init__(self, said: list[pb.TrackResponse]) -> None:
        self.said = said
        self.kinds: dict[int, Counter[str]] = defaultdict(Counter)
        self.results: dict[int, list[int]] = {}
        self.reasons: dict[int, int] = {}
        self.applied: dict[int, int] = {}
        for one in said:
            self._enter(one)

    def _enter(self, one: pb.TrackResponse) -> None:
        if one.HasField("result") and not one.result.revised:
            self.results[one.result.frame_seq] = [found.object_id for found in one.result.objects]
            self.kinds[one.result.frame_seq]["result"] += 1
        elif one.HasField("dropped"):
            self.reasons[one.dropped.frame_seq] = one.dropped.reason
            self.kinds[one.dropped.frame_seq]["dropped"] += 1
        elif one.HasField("prompt_applied"):
            self.applied[one.prompt_applied.prompt_seq] = one.prompt_applied.frame_seq
            self.kinds[one.prompt_applied.prompt_seq]["applied"] += 1
        elif one.HasField("error"):
            self.kinds[one.error.request_seq]["error"] += 1
        elif one.HasField("pong"):
            self.kinds[one.pong.nonce]["pong"] += 1

    @property
    def told(self) -> set[int]:
        """Frames answered or reported dropped."""
        return self.results.keys() | self.reasons.keys()

    @property
    def refused(self) -> set[int]:
        return {seq for seq, kinds in self.kinds.items() if kinds["error"]}


def expected(kind: str, ledger: Ledger, seq: int) -> list[Counter[str]]:
    """What may come back for one request: exactly one of these."""
    if kind == "frame":
        return [Counter(result=1), Counter(dropped=1)]
    if kind == "corrupt":
        told = ledger.reasons[seq] == pb.DROP_REASON_DECODE_ERROR
        return [Counter(dropped=1, error=1) if told else Counter(dropped=1)]
    if kind in ("prompt", "correction"):
        return [Counter(applied=1), Counter(error=1)]
    return [Counter(pong=1)] if kind == "ping" else [Counter(), Counter(error=1)]


def objects_at(frame_seq: int, client: AnyClient, refused: Iterable[int]) -> set[int]:
    """Objects there must be on a frame: everything said before it that was not refused, in order."""
    objects: set[int] = set()
    for seq in (seq for seq in sorted(client.sent) if seq < frame_seq and seq not in refused):
        if client.sent[seq] == "reset":
            objects.clear()
        elif client.sent[seq] == "remove":
            objects.discard(client.about[seq])
        elif client.sent[seq] in ("prompt", "correction"):
            objects.add(client.about[seq])
    return objects


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("policy", ["LATEST", "BLOCK"])
async def test_everything_sent_is_answered_once_and_in_order(
    served: Served, talk: Talk, policy: str, seed: int
) -> None:
    client = AnyClient(talk, seed)
    await talk.open(policy=policy)
    said = await client.run()
    ledger = Ledger(said)
    assert [one.server_seq for one in said] == list(range(1, len(said) + 1))
    assert said[-1].acked_seq == talk.seq
    wrong = {
        seq: (kind, ledger.kinds[seq])
        for seq, kind in client.sent.items()
        if ledger.kinds[seq] not in expected(kind, ledger, seq)
    }
    assert wrong == {}
    assert list(ledger.results) == sorted(ledger.results)
    if policy == "BLOCK":
        assert set(ledger.reasons.values()) <= {pb.DROP_REASON_DECODE_ERROR}
    for seq, found in ledger.results.items():
        assert found == sorted(objects_at(seq, client, ledger.refused)), seq
    for seq, frame_seq in ledger.applied.items():
        if client.sent[seq] == "prompt":  # the first frame answered after it
            assert frame_seq == min(frame for frame in ledger.results if frame > seq)
    assert {"frame", "prompt", "correction"} <= {client.sent[seq] for seq in (*ledger.applied, *ledger.results)}
    await served.settled()
