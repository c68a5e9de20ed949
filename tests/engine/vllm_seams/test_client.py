"""Requests in flight are counted for each adapter, however they end; models of the OpenAI routes come and go."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from fourshot.engine.vllm_seams.client import EngineLimits, InFlight, add_model, began_s, limits_of, remove_model


async def generate(prompt: str, *, lora_request: Any = None) -> AsyncIterator[str]:
    yield prompt
    if prompt == "fails":
        raise ValueError(prompt)
    yield prompt


def test_requests_are_in_flight_until_their_last_answer_their_failure_or_their_end() -> None:
    client, adapter = SimpleNamespace(generate=generate), SimpleNamespace(lora_name="mine")
    in_flight = InFlight(client)

    async def ask() -> None:
        running = client.generate("one", lora_request=adapter)
        await anext(running)
        given_up = client.generate("two", lora_request=adapter)
        await anext(given_up)
        base = client.generate("fails")
        await anext(base)
        assert (in_flight.of("mine"), in_flight.total) == (2, 3)
        assert [answer async for answer in running] == ["one"]
        await given_up.aclose()
        assert (in_flight.of("mine"), in_flight.total) == (0, 1)
        try:
            await anext(base)
        except ValueError:
            assert in_flight.total == 0

    asyncio.run(ask())
    assert in_flight.total == 0


def test_the_limits_are_those_that_the_engine_was_started_with() -> None:
    config = SimpleNamespace(
        lora_config=SimpleNamespace(max_loras=4, max_lora_rank=16),
        scheduler_config=SimpleNamespace(max_num_batched_tokens=2048),
    )
    client = SimpleNamespace(vllm_config=config, model_config=SimpleNamespace(max_model_len=512))
    assert limits_of(client) == EngineLimits(num_loras=4, lora_rank=16, step_tokens=2048, prompt_tokens=512)


def test_an_adapter_is_a_model_until_it_is_removed() -> None:
    models = SimpleNamespace(lora_requests={})
    add_model(models, SimpleNamespace(lora_name="mine"))
    assert list(models.lora_requests) == ["mine"]
    remove_model(models, "mine")
    remove_model(models, "mine")
    assert not models.lora_requests


def test_the_time_of_a_request_is_the_engines_where_it_keeps_one() -> None:
    assert began_s(SimpleNamespace(metrics=SimpleNamespace(scheduled_ts=2.5))) == 2.5
    assert began_s(SimpleNamespace(metrics=None)) == began_s(SimpleNamespace(metrics=SimpleNamespace())) == 0
