"""The throughput suite asks every way for the same, judges all texts alike, and sets the limit by counting."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.bench.core.model_shape import SHAPES
from fourshot.bench.core.old_processes import MeasuringProcess
from fourshot.bench.core.roofline import Machine
from fourshot.bench.core.workload import Workload
from fourshot.bench.suites.throughput.measure import BATCHES, CEILINGS, ThroughputSettings, draws_of, thinned
from fourshot.bench.suites.throughput.orders import Drawn, Draws, Ready, Said, WayOrder
from fourshot.bench.suites.throughput.others import transformers_batches
from fourshot.bench.suites.throughput.report import limit, passing, summarise, table
from fourshot.bench.suites.throughput.ways import corpus, ours
from fourshot.engine.core import EngineSettings
from fourshot.engine.tokens import encode_prompts, load_tokenizer
from fourshot.pipeline.synthesis.settings import PRESETS
from fourshot.pipeline.tasks.shots import take_shots
from fourshot.pipeline.tasks.task_file import load_task


@pytest.fixture(scope="module")
def stuff() -> Workload:
    task = load_task("support_tickets")
    return Workload(task=task, texts=(), shots=tuple(take_shots(task, 4, 0)), pools={}, k=4)


def test_all_ways_get_what_a_round_asks_an_engine_for(stuff: Workload, model: str) -> None:
    draws = draws_of(stuff, model, per_class=3, round_number=0)
    assert draws.labels == tuple(label for label in stuff.task.label_names for _ in range(3))
    assert draws.sampling.stop == ("\n",) and draws.sampling.max_tokens >= 32
    tokens = encode_prompts(load_tokenizer(model), draws.prompts)
    found = ours(WayOrder(way="ours", engine=EngineSettings(model="fake")))(draws)
    assert found.prompt_tokens == sum(len(prompt) // 4 for prompt in draws.prompts)  # as the stand-in counts them
    assert [one.label for one in found.texts] == list(draws.labels)
    assert len({tuple(ids) for ids in tokens}) > len(stuff.task.labels)  # the orders of the shots differ
    other = draws_of(stuff, model, per_class=3, round_number=1)
    assert other.prompts != draws.prompts


def test_fewer_texts_are_of_all_classes(stuff: Workload, model: str) -> None:
    draws = draws_of(stuff, model, per_class=4, round_number=0)
    few = thinned(draws, len(stuff.task.labels), batch=8)
    assert few.labels == stuff.task.label_names and few.batch == 8
    assert all(prompt in draws.prompts for prompt in few.prompts)


def test_transformers_rows_end_with_their_line(stuff: Workload, tiny_model: str) -> None:
    draws = draws_of(stuff, tiny_model, per_class=2, round_number=0)
    sampling = msgspec.structs.replace(draws.sampling, top_k=0, max_tokens=8, stop=(" ", "\n"))
    found = transformers_batches(WayOrder(way="transformers", engine=EngineSettings(model=tiny_model)))(
        msgspec.structs.replace(draws, sampling=sampling, batch=3)
    )
    assert len(found.texts) == len(draws.prompts)
    assert found.prompt_tokens == sum(map(len, encode_prompts(load_tokenizer(tiny_model), draws.prompts)))
    assert {one.finish_reason for one in found.texts} >= {"stop"}  # of a random model half of all tokens hold a blank
    for one in found.texts:
        assert " " not in one.text
        assert one.num_tokens == 8 if one.finish_reason == "length" else one.num_tokens <= 8
    assert 0 < found.first_s < found.seconds and found.output_tokens == sum(one.num_tokens for one in found.texts)


def test_a_corpus_is_counted_by_what_lies_on_the_disk(stuff: Workload, model: str, tmp_path: Path) -> None:
    settings = PRESETS["corpus"]
    few = msgspec.structs.replace(settings, generate=msgspec.structs.replace(settings.generate, per_class=40))
    draws = msgspec.structs.replace(
        draws_of(stuff, model, per_class=1, round_number=0), settings=few, folder=str(tmp_path / "corpus")
    )
    found = corpus(WayOrder(way="corpus", engine=EngineSettings(model="fake")))(draws)
    lines = [line for file in (tmp_path / "corpus").glob("data/*/*") for line in file.read_text().splitlines()]
    assert found.kept == len(lines) == 40 * len(stuff.task.labels)
    assert found.drawn > found.kept and found.output_tokens == 12 * found.drawn
    assert 0 < found.first_s <= found.seconds


def test_a_process_answers_and_its_end_is_told_with_what_it_printed(
    stuff: Workload, model: str, tmp_path: Path
) -> None:
    draws = draws_of(stuff, model, per_class=1, round_number=0)
    order = WayOrder(way="ours", engine=EngineSettings(model="fake"))
    process = MeasuringProcess("fourshot.bench.suites.throughput.ways", order, tmp_path / "log")
    try:
        process.answer(Ready)
        assert len(process.ask(draws, Drawn).texts) == len(draws.prompts)
        with pytest.raises(RuntimeError, match="ValidationError"):
            process.ask({"not": "draws"}, Drawn)
    finally:
        process.close()


def test_the_limit_is_operations_or_reading_whichever_takes_longer() -> None:
    shape = SHAPES["tiny"]
    drawn = Drawn(
        seconds=1, first_s=1, prompt_tokens=200, cached_tokens=150, output_tokens=20, texts=(_said(), _said())
    )
    slow = limit(shape, Machine(flops=1e9, bytes_per_s=1e15), drawn, together=2)
    one_token = shape.prompt_flops(105, 104)
    assert slow.flops_per_token == one_token
    assert slow.seconds == pytest.approx((2 * shape.prompt_flops(100, 75) + 18 * one_token) / 1e9)
    narrow = limit(shape, Machine(flops=1e15, bytes_per_s=1e9), drawn, together=2)
    assert narrow.seconds == pytest.approx(18 * (shape.weight_bytes / 2 + 105 * shape.kv_bytes_per_token) / 1e9)


def test_texts_of_every_way_are_cleaned_and_judged_alike(stuff: Workload) -> None:
    good = "My parcel was sent to the wrong street and nobody answers my letters."
    said = [_said(f' "{good}"\n'), _said("?"), _said(stuff.shots[0].text), _said(good)]
    drawn = Drawn(seconds=1, first_s=1, prompt_tokens=1, cached_tokens=0, output_tokens=1, texts=tuple(said))
    assert passing(stuff, drawn) == 2


def test_the_table_says_what_was_measured_and_why_something_was_not(stuff: Workload) -> None:
    result = summarise(ThroughputSettings(repeats=3), stuff, SHAPES["tiny"], _rows(ours_s=2.0))
    assert [one["met"] for one in result["targets"]] == [True, True, True]
    shown = table(result)
    assert "| fourshot, drawing | 50.0 (50.0 to 50.0) |" in shown
    assert "repeat by repeat, times: 1.000 (1.000 to 1.000); against transformers: 5.5 (5.5 to 5.5)" in shown
    assert "distilabel with vLLM: n/a (distilabel 1.0): `TypeError: no`" in shown
    slower = summarise(ThroughputSettings(repeats=3), stuff, SHAPES["tiny"], _rows(ours_s=2.3))
    assert [one["met"] for one in slower["targets"]] == [False, True, False]
    assert "**not met**" in table(slower)


def _said(text: str = "some text") -> Said:
    return Said(label="refund", text=text, num_tokens=10, finish_reason="stop")


def _rows(ours_s: float) -> dict[str, Any]:
    """The suite's rows, made up: 100 texts in 2 s by vLLM alone, in 11 s by transformers."""

    def drawn(seconds: float, **more: Any) -> Any:
        texts = () if more else (_said(),) * 100
        return msgspec.to_builtins(
            Drawn(
                seconds=seconds,
                first_s=seconds,
                prompt_tokens=5000,
                cached_tokens=4000,
                output_tokens=1000,
                texts=texts,
                **more,
            )
        )

    machine = {"flops": 1e12, "bytes_per_s": 1e10}
    read = {"rows": (), "prompt_tokens": 1000, "cached_tokens": 0}
    return {
        "machine": machine,
        "machine after": machine,
        **{f"ceiling/{name}": drawn(2.0) for name in CEILINGS},
        **{f"batch/{size}": drawn(10.0) for size in BATCHES},
        **{f"start/{way}": 1.0 for way in ("vllm", "ours", "transformers")},
        **{
            f"{way}/{n}": drawn(s)
            for way, s in (("vllm", 2.0), ("ours", ours_s), ("transformers", 11.0))
            for n in range(3)
        },
        "corpus/0": drawn(10.0, kept=60, drawn=100),
        "filter texts": 50,
        "uncached": {**read, "seconds": 50.0},
        "base": {**read, "seconds": 5.0},
        "distilabel": {"reason": "TypeError: no", "versions": {"distilabel": "1.0"}},
    }


def test_draws_survive_the_way_to_a_process(stuff: Workload, model: str) -> None:
    draws = draws_of(stuff, model, per_class=1, round_number=0)
    assert msgspec.json.decode(msgspec.json.encode(draws), type=Draws) == draws
