"""The throughput suite asks every way for the same, judges all texts alike, and sets the limit by counting."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.bench.core.processes import OpenerProcess
from fourshot.bench.core.roofline import SHAPES, Machine
from fourshot.bench.core.workload import Workload
from fourshot.bench.suites.throughput import BATCHES, SUITE, draw_request, thinned
from fourshot.bench.suites.throughput.report import CEILINGS, limit, passing, summarise
from fourshot.bench.suites.throughput.samplers import (
    DrawRequest,
    DrawResult,
    SampledText,
    SamplerSetup,
    corpus,
    our_sampler,
    transformers_batches,
)
from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import FourshotError
from fourshot.engine.tokens import encode_prompts, load_tokenizer
from fourshot.pipeline.synthesis.settings import PRESETS
from fourshot.pipeline.tasks.shots import take_shots
from fourshot.pipeline.tasks.task_file import load_task


@pytest.fixture(scope="module")
def workload() -> Workload:
    task = load_task("support_tickets")
    return Workload(task=task, texts=(), shots=tuple(take_shots(task, 4, 0)), train_by_label={}, k=4)


def test_all_ways_get_what_a_round_asks_an_engine_for(workload: Workload, model: str) -> None:
    request = draw_request(workload, model, per_class=3, round_number=0)
    assert request.labels == tuple(label for label in workload.task.label_names for _ in range(3))
    assert request.sampling.stop == ("\n",) and request.sampling.max_tokens >= 32
    tokens = encode_prompts(load_tokenizer(model), request.prompts)
    result = our_sampler(SamplerSetup(engine=EngineSettings(model="fake")))(request)
    assert result.prompt_tokens == sum(len(prompt) // 4 for prompt in request.prompts)  # as the fake engine counts them
    assert [text.label for text in result.texts] == list(request.labels)
    assert len({tuple(ids) for ids in tokens}) > len(workload.task.labels)  # the shots come in different orders
    other_request = draw_request(workload, model, per_class=3, round_number=1)
    assert other_request.prompts != request.prompts


def test_fewer_texts_are_of_all_classes(workload: Workload, model: str) -> None:
    request = draw_request(workload, model, per_class=4, round_number=0)
    thin_request = thinned(request, len(workload.task.labels), batch=8)
    assert thin_request.labels == workload.task.label_names and thin_request.batch == 8
    assert all(prompt in request.prompts for prompt in thin_request.prompts)
    assert thinned(request, len(request.prompts) + 3, batch=8).prompts == request.prompts, "each once"


def test_transformers_rows_end_with_their_line(workload: Workload, tiny_model: str) -> None:
    request = draw_request(workload, tiny_model, per_class=2, round_number=0)
    sampling = msgspec.structs.replace(request.sampling, top_k=0, max_tokens=8, stop=(" ", "\n"))
    result = transformers_batches(SamplerSetup(engine=EngineSettings(model=tiny_model)))(
        msgspec.structs.replace(request, sampling=sampling, batch=3)
    )
    assert len(result.texts) == len(request.prompts)
    assert result.prompt_tokens == sum(map(len, encode_prompts(load_tokenizer(tiny_model), request.prompts)))
    assert {text.finish_reason for text in result.texts} >= {
        "stop"
    }  # of a random model half of all tokens hold a blank
    for text in result.texts:
        assert " " not in text.text
        assert text.num_tokens == 8 if text.finish_reason == "length" else text.num_tokens <= 8
    assert 0 < result.first_s < result.seconds and result.output_tokens == sum(text.num_tokens for text in result.texts)


def test_a_corpus_is_counted_by_what_lies_on_the_disk(workload: Workload, model: str, tmp_path: Path) -> None:
    settings = PRESETS["corpus"]
    small_settings = msgspec.structs.replace(
        settings, generate=msgspec.structs.replace(settings.generate, per_class=40)
    )
    request = msgspec.structs.replace(
        draw_request(workload, model, per_class=1, round_number=0),
        settings=small_settings,
        folder=str(tmp_path / "corpus"),
    )
    result = corpus(SamplerSetup(engine=EngineSettings(model="fake")))(request)
    lines = [line for file in (tmp_path / "corpus").glob("data/*/*") for line in file.read_text().splitlines()]
    assert result.kept == len(lines) == 40 * len(workload.task.labels)
    assert result.drawn > result.kept and result.output_tokens == 12 * result.drawn
    assert 0 < result.first_s <= result.seconds


def test_a_process_answers_and_its_end_is_told_with_what_it_printed(
    workload: Workload, model: str, tmp_path: Path
) -> None:
    request = draw_request(workload, model, per_class=1, round_number=0)
    assert msgspec.json.decode(msgspec.json.encode(request), type=DrawRequest) == request
    process = OpenerProcess(our_sampler, SamplerSetup(engine=EngineSettings(model="fake")), tmp_path / "log")
    try:
        assert len(process.ask(request).texts) == len(request.prompts)
        with pytest.raises(FourshotError, match="ValidationError"):
            process.ask({"not": "a request"})  # type: ignore[arg-type]
    finally:
        process.close()


def test_the_limit_is_operations_or_reading_whichever_takes_longer() -> None:
    shape = SHAPES["tiny"]
    drawn = DrawResult(
        seconds=1, first_s=1, prompt_tokens=200, cached_tokens=150, output_tokens=20, texts=(sampled(), sampled())
    )
    slow = limit(shape, Machine(flops=1e9, bytes_per_s=1e15), drawn, together=2)
    one_token = shape.prompt_flops(105, 104)
    assert slow.flops_per_token == one_token
    assert slow.seconds == pytest.approx((2 * shape.prompt_flops(100, 75) + 18 * one_token) / 1e9)
    narrow = limit(shape, Machine(flops=1e15, bytes_per_s=1e9), drawn, together=2)
    assert narrow.seconds == pytest.approx(18 * (shape.weight_bytes / 2 + 105 * shape.kv_bytes_per_token) / 1e9)


def test_texts_of_every_way_are_cleaned_and_judged_alike(workload: Workload) -> None:
    good = "My parcel was sent to the wrong street and nobody answers my letters."
    texts = [sampled(f' "{good}"\n'), sampled("?"), sampled(workload.shots[0].text), sampled(good)]
    drawn = DrawResult(seconds=1, first_s=1, prompt_tokens=1, cached_tokens=0, output_tokens=1, texts=tuple(texts))
    assert passing(workload, drawn) == 2


def test_the_table_says_what_was_measured_and_why_something_was_not(workload: Workload) -> None:
    result = summarise(3, workload, SHAPES["tiny"], _rows(ours_s=2.0))
    assert [target.met for target in result["targets"]] == [True, True, True]
    shown = SUITE.markdown(written(result))
    assert "| fourshot, drawing | 50.0 (50.0 to 50.0) |" in shown
    assert "repeat by repeat, times: 1.000 (1.000 to 1.000); against transformers: 5.5 (5.5 to 5.5)" in shown
    assert "distilabel with vLLM: n/a (distilabel 1.0): `TypeError: no`" in shown
    slower = summarise(3, workload, SHAPES["tiny"], _rows(ours_s=2.3))
    assert [target.met for target in slower["targets"]] == [False, True, False]
    assert "(missed)" in SUITE.markdown(written(slower))


def written(result: dict[str, Any]) -> Any:
    """A result as its file has it."""
    return msgspec.to_builtins(result)


def sampled(text: str = "some text") -> SampledText:
    return SampledText(label="refund", text=text, num_tokens=10, finish_reason="stop")


def _rows(ours_s: float) -> dict[str, Any]:
    """The suite's rows, made up: 100 texts in 2 s by vLLM alone, in 11 s by transformers."""

    def drawn(seconds: float, **more: Any) -> Any:
        texts = () if more else (sampled(),) * 100
        return msgspec.to_builtins(
            DrawResult(
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
    counts = {"rows": (), "prompt_tokens": 1000, "cached_tokens": 0}
    return {
        "machine": machine,
        "machine after": machine,
        **{f"ceiling/{name}": drawn(2.0) for name in CEILINGS},
        **{f"batch/{size}": drawn(10.0) for size in BATCHES},
        **{f"start/{sampler}": 1.0 for sampler in ("vllm", "ours", "transformers")},
        **{
            f"{sampler}/{n}": drawn(s)
            for sampler, s in (("vllm", 2.0), ("ours", ours_s), ("transformers", 11.0))
            for n in range(3)
        },
        "corpus/0": drawn(10.0, kept=60, drawn=100),
        "filter texts": 50,
        "uncached": {**counts, "seconds": 50.0},
        "base": {**counts, "seconds": 5.0},
        "distilabel": {"reason": "TypeError: no", "versions": {"distilabel": "1.0"}},
    }
