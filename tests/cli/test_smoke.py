from tests.support.api_client import Client


async def test_a_message_goes_in_and_its_answer_streams_out(api_with_worker: Client) -> None:
    message_id = await api_with_worker.submit("one two three")
    events = await api_with_worker.events(message_id)
    assert [event.type for event in events] == [
        "queued",
        "started",
        "chunk",
        "chunk",
        "chunk",
        "done",
    ]
    assert [event.id for event in events] == [1, 2, 3, 4, 5, 6]
    assert (await api_with_worker.status(message_id))["result"] == "one two three"
