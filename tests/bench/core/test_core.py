"""What all suites share: rows that outlive a kill, intervals, and the roof."""

import json
import math
import os
import time
from pathlib import Path

import pytest
import torch

from fourshot.bench.core import closed_loop, roofline
from fourshot.bench.core.load import Load, LoadRequest, choices
from fourshot.bench.core.processes import check_cores, run_fourshot
from fourshot.bench.core.results import (
    FinishedPieces,
    check_data,
    check_out,
    locked,
    path_beside,
    read_result,
    write_result,
)
from fourshot.bench.core.roofline import SHAPES, Machine, Roof, opened_base, shape_of, write_shape
from fourshot.bench.core.statistics import estimate, ratio
from fourshot.bench.suites import run_suite
from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.errors import FourshotError, InputError


def test_rows_are_there_again_and_a_torn_last_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "found.rows.jsonl"
    done = FinishedPieces(path, {"repeats": 3})
    done.add("one", {"a": 1})
    done.add("two", [1, 2])
    with path.open("a") as file:
        file.write('{"piece": "three", "val')
    again = FinishedPieces(path, {"repeats": 3})
    assert again.pieces == {"header": {}, "one": {"a": 1}, "two": [1, 2]}
    again.add("three", 3)
    assert FinishedPieces(path, {"repeats": 3}).pieces["three"] == 3


def test_rows_of_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    FinishedPieces(tmp_path / "rows", {"repeats": 3, "k": 4}).add("one", 1)
    with pytest.raises(InputError, match="with other settings"):
        FinishedPieces(tmp_path / "rows", {"repeats": 5, "k": 4})
    with pytest.raises(InputError, match="of another suite, or another version"):
        FinishedPieces(tmp_path / "rows", {f"a{n}": n for n in range(9)})


@pytest.mark.parametrize("changed", ['{"piece": "one"}', '{"value": 1}', '{"settings": {"repeats": 3}}', None])
def test_rows_that_were_edited_are_refused_by_the_name_of_their_file(tmp_path: Path, changed: str | None) -> None:
    path = tmp_path / "a.rows.jsonl"
    done = FinishedPieces(path, {"repeats": 3})
    done.add("one", 1)
    done.add("two", 2)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], changed, ""] if changed else [*lines[1:], ""]))
    with pytest.raises(InputError, match=r"a\.rows\.jsonl was changed after it was written: its first line"):
        FinishedPieces(path, {"repeats": 3})


def test_what_lies_beside_a_result_is_of_no_other_result(tmp_path: Path) -> None:
    outs = [tmp_path / name for name in ("v1.json", "v1.0", "v1.1", "v1.0.json.txt")]
    for ending in (".rows.jsonl", ".html", ""):
        assert len({path_beside(out, ending) for out in outs} | {*outs}) == 2 * len(outs)
    assert path_beside(outs[0], ".rows.jsonl").name == "v1.rows.jsonl"
    with (
        locked(tmp_path / "v1.json"),
        pytest.raises(InputError, match="another process measures into"),
        locked(tmp_path / "v1"),  # whose rows would be the same
    ):
        pass


def test_a_result_is_read_back_and_another_suite_refused(tmp_path: Path) -> None:
    write_result(tmp_path / "a.json", {"suite": "latency"})
    assert read_result(tmp_path / "a.json", "latency") == {"suite": "latency"}
    with pytest.raises(InputError, match="latency"):
        read_result(tmp_path / "a.json", "serving")
    with pytest.raises(InputError, match="cannot be read"):
        read_result(tmp_path / "nothing.json")


def test_an_interval_is_students() -> None:
    interval = estimate([9.0, 10.0, 11.0])
    assert interval.mean == 10.0
    assert interval.high is not None
    assert interval.high - 10.0 == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    assert estimate([3.0]).low is None
    assert [estimate([80.0, 83.0], most=most).high for most in (100, 110)] == [100, pytest.approx(100.56, abs=0.01)]
    with pytest.raises(ValueError, match="nothing"):
        estimate([])


def test_a_ratio_pairs_the_repeats() -> None:
    pooled = ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0])  # the machine slowed both sides of a repeat
    assert (pooled.mean, pooled.low, pooled.high) == pytest.approx((2.0, 2.0, 2.0))


def test_operations_and_bytes_of_a_shape_are_counted() -> None:
    shape = SHAPES["vicuna-7b"]
    assert shape.decoder_parameters == 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    assert shape.kv_bytes_per_token == 2 * 2 * 32 * 4096
    alone = shape.prompt_flops(100)
    assert shape.prompt_flops(100, cached=99) < alone / 40
    pairs = 100 * 101 / 2
    assert alone == 2 * shape.decoder_parameters * 100 + 4 * 32 * 4096 * pairs + 2 * 49152 * 4096


def test_the_embedded_models_shape_is_read_from_its_config(tmp_path: Path) -> None:
    model = resolve_model(None).path
    shape = shape_of(model)
    assert shape.decoder_parameters == pytest.approx(106.2e6, rel=0.01)
    folder = write_shape(shape, tmp_path / "shape", model)
    assert shape_of(folder) == shape
    resolve_model(str(folder), weights=False)


def test_a_shape_like_qwen_2_is_as_large_as_the_embedded_model(tmp_path: Path) -> None:
    model, shape = resolve_model(None).path, SHAPES["qwen2-135m"]
    assert shape.decoder_parameters == shape_of(model).decoder_parameters
    config = json.loads((write_shape(shape, tmp_path / "shape", model) / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["Qwen2ForCausalLM"], "qwen2")
    assert shape_of(tmp_path / "shape") == shape


def test_a_shape_takes_its_tokenizer_from_any_folder_whose_ids_it_has(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tokenizer\.json cannot be read"):
        write_shape(SHAPES["tiny"], tmp_path / "shape", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    for highest in (49_151, 49_152):
        tokenizer = {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": highest}]}
        (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
        if highest < SHAPES["tiny"].vocab_size:
            write_shape(SHAPES["tiny"], tmp_path / "shape", tmp_path)
        else:
            with pytest.raises(InputError, match="token ids up to 49152"):
                write_shape(SHAPES["tiny"], tmp_path / "shape", tmp_path)


def test_the_roof_is_operations_when_saturated_and_weights_when_alone() -> None:
    shape = SHAPES["tiny"]
    machine = Machine(flops=1e12, bytes_per_s=1e10)
    roof = Roof(machine=machine, shape=shape, floor_alone_s=0.01, floor_saturated_s=0.001)
    assert roof.saturated_s(40, 0) == shape.prompt_flops(40) / 1e12 + 0.001
    assert roof.saturated_s(40, 32) < roof.saturated_s(40, 0)
    assert roof.alone_s(2, 0) == pytest.approx(0.01)  # reading the weights is in the floor already
    assert roof.alone_s(2000, 0) > 0.01


def test_waiting_for_a_gpu_is_no_part_of_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product that takes 10 us is waited for as long: alone, it would be half as fast as it is."""
    monkeypatch.setattr(roofline, "SECONDS", 0.1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: time.sleep(0.01))
    assert roofline.fastest(1.0, lambda: None) > 1.5 / 0.01


def test_the_command_prints_the_two_numbers_of_a_roofline(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(roofline, "SECONDS", 0.01)
    monkeypatch.setattr(roofline, "BYTES", 1 << 16)
    assert run_suite("machine", ["--model", tiny_model]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert sorted(numbers) == ["bytes_per_s", "flops"]
    assert all(number > 1e6 for number in numbers.values())


def test_what_a_gpu_is_to_do_is_not_measured_on_the_cpu_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourshot.engine.machine.gpus.version", lambda package: "0.32.0")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    for measure in (closed_loop.yardstick, lambda: roofline.product_rate(1, 1, 1)):
        with pytest.raises(FourshotError, match="cannot use it"):
            measure()


def test_a_plan_in_order_sends_each_once_before_any_again() -> None:
    requests = tuple(LoadRequest(kind="x", path="/", body=str(n)) for n in range(3))
    load = Load(url="http://localhost", requests=requests, seconds=1, in_order=True)
    import random

    chosen = choices(load, random.Random(0))
    assert [next(chosen) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    once = Load(url="http://localhost", requests=requests, seconds=1, once=True)
    assert list(choices(once, random.Random(0))) == [0, 1, 2]


def test_a_refused_run_writes_nothing_and_rows_without_a_piece_do_not_block(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    FinishedPieces(path, {"repeats": 3})
    assert not path.exists()
    path.write_text('{"settings": {"repeats": 3}}\n')  # killed before its first piece
    FinishedPieces(path, {"repeats": 5}).add("one", 1)
    assert FinishedPieces(path, {"repeats": 5}).pieces == {"header": {}, "one": 1}


def test_pieces_of_other_code_are_told_apart_from_those_before(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    FinishedPieces(path, {}, lambda: {"commit": "one", "date": "a"}).add("first", 1)
    same = FinishedPieces(path, {}, lambda: {"commit": "one", "date": "b"})
    assert "1 pieces of an earlier call are in" in capfd.readouterr().err
    same.add("second", 2)
    assert same.header == {"commit": "one", "date": "a"}
    other = FinishedPieces(path, {}, lambda: {"commit": "two", "date": "c"})
    other.add("third", 3)
    other.add("fourth", 4)
    assert "are of commit one" in capfd.readouterr().err
    (since,) = FinishedPieces(path, {}, lambda: {"commit": "two"}).header["continued"]
    assert (since["commit"], since["date"], since["pieces"]) == ("two", "c", 2)


def test_two_do_not_measure_into_one_file(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    with locked(out), pytest.raises(InputError, match="another process measures into"), locked(out):
        pass
    with locked(out), locked(None):
        assert list(tmp_path.iterdir()) == [tmp_path / ".result.json.lock"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cores", ["99", "0-99", "x", "-1", "0,,1", "3-1"])
def test_cores_that_are_not_there_are_bad_input(cores: str) -> None:
    with pytest.raises(InputError, match=f"--cores {cores}: give cores that this process may use"):
        check_cores("--cores", cores)
    check_cores("--cores", "")
    check_cores("--cores", str(min(os.sched_getaffinity(0))))


def test_places_that_cannot_be_used_are_said_before_an_hour_is_spent(tmp_path: Path) -> None:
    check_out(tmp_path / "new" / "result.json", "latency")
    with pytest.raises(InputError, match="is a folder"):
        check_out(tmp_path, "latency")
    with pytest.raises(InputError, match="nothing can be written"):
        check_out(Path("/proc/nowhere/result.json"), "latency")
    (tmp_path / "mine.json").write_text('{"precious": 1}')
    with pytest.raises(InputError, match=r"would be overwritten: .*mine\.json is not a result"):
        check_out(tmp_path / "mine.json", "latency")
    with pytest.raises(InputError, match="trec"):
        check_data(tmp_path, ["trec"])


def test_a_shape_is_written_with_weights_and_removed(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    with opened_base(None, "tiny") as base:
        folder = Path(base.path)
        model = AutoModelForCausalLM.from_pretrained(folder)
        weights = model.lm_head.weight.float()
        assert shape_of(folder) == SHAPES["tiny"]
        assert weights.isfinite().all() and weights.std() > 0.001
    assert not folder.exists()


def test_a_shape_beside_a_model_and_an_unknown_one_are_refused() -> None:
    with pytest.raises(InputError, match="Give one of them"), opened_base("embedded", "tiny"):
        pass
    unknown = r"unknown shape 'vicuna-70b'\. Allowed are vicuna-7b"
    with pytest.raises(InputError, match=unknown), opened_base(None, "vicuna-70b"):
        pass


def test_a_command_that_a_suite_runs_and_that_fails_is_no_fault_of_fourshot(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FourshotError, match=r"`fourshot train nothing` ended with exit code 2; see above"):
        run_fourshot("train", "nothing")
    assert "nothing" in capfd.readouterr().err
