"""What is written again after a connection was lost, and what is not."""

from __future__ import annotations

import asyncio

from masklet.v1 import prompt_pb2
from masklet.v1 import segmentation_pb2 as pb
from masklet_client.journal import Journal


def journal() -> Journal:
    return Journal(max_bytes=1 << 20, max_requests=64)


async def written(kept: Journal) -> list[str]:
    """All that is to be written now, as on the wire: number and kind."""
    found: list[str] = []
    while True:
        try:
            async with asyncio.timeout(0):
                request = await kept.next()
        except TimeoutError:
            return found
        assert request is not None
        found.append(f"{request.seq} {request.WhichOneof('message')}")


async def begun_anew() -> Journal:
    """One frame answered, one not, and two objects to begin a new session with: 2 and 3, then the frame, 4."""
    kept = journal()
    answered = await kept.post(frame=pb.Frame())
    assert await written(kept) == ["2 frame"]
    kept.answered(answered)
    await kept.post(frame=pb.Frame())
    kept.restart([prompt_pb2.Prompt(object_id=1), prompt_pb2.Prompt(object_id=2)])
    return kept


async def test_objects_of_a_session_begun_anew_are_told_again_from_where_the_server_lacks_them() -> None:
    kept = await begun_anew()
    for next_seq in (2, 3, 4):
        kept.rewind(next_seq)
        assert await written(kept) == ["2 prompt", "3 prompt", "4 frame"][next_seq - 2 :]


async def test_objects_told_before_an_answer_came_are_told_the_next_front() -> None:
    kept = await begun_anew()
    assert await written(kept) == ["2 prompt", "3 prompt", "4 frame"]
    kept.rewind(2)
    assert await written(kept) == ["2 prompt", "3 prompt", "4 frame"]
    kept.answered(kept.app_seq(4))
    await kept.post(frame=pb.Frame())
    kept.rewind(5)
    assert await written(kept) == ["5 frame"]


async def test_what_was_carried_out_with_a_correction_is_told_again_only_to_a_new_session() -> None:
    kept = journal()
    frame = await kept.post(frame=pb.Frame())
    assert await written(kept) == ["2 frame"]
    kept.answered(frame)
    await kept.post(remove_object=pb.RemoveObject(object_id=2))
    await kept.post(prompt=prompt_pb2.Prompt(object_id=2))
    assert await written(kept) == ["3 remove_object", "4 prompt"]
    correction = await kept.post(prompt=prompt_pb2.Prompt(object_id=1, frame_seq=frame))
    await kept.post(remove_object=pb.RemoveObject(object_id=3))
    assert await written(kept) == ["5 prompt", "6 remove_object"]
    kept.settled(correction, refused=False)
    kept.rewind(3)
    assert await written(kept) == ["3 ping", "4 prompt", "5 ping", "6 remove_object"]
    kept.restart([])
    assert await written(kept) == ["2 remove_object", "3 prompt", "4 prompt", "5 remove_object"]


async def test_a_prompt_said_to_have_taken_effect_is_kept_until_its_frame_is_answered() -> None:
    kept = journal()
    prompt = await kept.post(prompt=prompt_pb2.Prompt(object_id=1))
    await kept.post(frame=pb.Frame())
    assert await written(kept) == ["2 prompt", "3 frame"]
    kept.settled(prompt, refused=False)
    kept.rewind(2)
    assert await written(kept) == ["2 prompt", "3 frame"]


async def test_what_waits_for_no_answer_never_waits_for_room() -> None:
    kept = Journal(max_bytes=1 << 20, max_requests=4)
    async with asyncio.timeout(30):
        for number in range(20):
            await kept.post(prompt=prompt_pb2.Prompt(object_id=number + 1))
            await written(kept)
        await kept.post(frame=pb.Frame())


async def test_a_frame_without_room_beside_those_written_is_left_out() -> None:
    kept = Journal(max_bytes=1 << 20, max_requests=4, patience_s=0.01)
    async with asyncio.timeout(30):
        for _ in range(8):
            await kept.post(frame=pb.Frame())
            await written(kept)
    assert list(kept.pending) == [2, 3, 4, 5]
    assert [kept.skipped.get_nowait() for _ in range(kept.skipped.qsize())] == [(6, 4), (7, 5), (8, 6), (9, 7)]
    for seq in (2, 3, 4, 5):
        kept.answered(seq)
    await kept.post(frame=pb.Frame())
    assert await written(kept) == ["10 frame"]


async def test_frames_before_an_answered_one_are_lost_to_a_new_session() -> None:
    kept = journal()
    first, second = await kept.post(frame=pb.Frame()), await kept.post(frame=pb.Frame())
    assert await written(kept) == ["2 frame", "3 frame"]
    kept.answered(second)
    assert kept.lost_frames() == [first]


async def test_corrections_seen_in_the_masks_of_a_new_session_are_not_told_it_again() -> None:
    kept = journal()
    frames = [await kept.post(frame=pb.Frame()) for _ in range(2)]
    await written(kept)
    for frame in frames:
        kept.answered(frame)
    for frame in frames:
        kept.settled(await kept.post(prompt=prompt_pb2.Prompt(object_id=1, frame_seq=frame)), refused=False)
        await written(kept)
    await kept.post(frame=pb.Frame())
    kept.restart([prompt_pb2.Prompt(object_id=1)], seen_frame=frames[1])
    assert await written(kept) == ["2 prompt", "3 prompt", "4 ping", "5 frame"]
