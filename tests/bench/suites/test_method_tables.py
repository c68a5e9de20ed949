"""The README's numbers come from result files alone, and only where all of them are there."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from fourshot.bench.core.comparisons import load_bases, load_comparisons
from fourshot.bench.core.parts import Target
from fourshot.bench.core.results import TITLES
from fourshot.bench.suites import docs
from fourshot.bench.suites.docs.method_tables import (
    base_tables,
    baselines,
    headline,
    results_table,
    short_table,
    targets,
    wordings_table,
)
from fourshot.engine.checkpoints.embedded import NAME as EMBEDDED
from fourshot.engine.errors import InputError
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.report.data import method_row
from fourshot.pipeline.runs.compare import Comparison, SeedResult
from fourshot.pipeline.scores import Scores
from fourshot.pipeline.synthesis.settings import RunSettings

ACCURACIES = {  # method -> per task, per seed
    "zero_shot": {"sst2": (0.5, 0.5), "trec": (0.2, 0.2), "ag_news": (0.4, 0.4)},
    "icl": {"sst2": (0.6, 0.6), "trec": (0.3, 0.3), "ag_news": (0.6, 0.6)},
    "lora": {"sst2": (0.84, 0.86), "trec": (0.68, 0.72), "ag_news": (0.8, 0.8)},
    "fourshot": {"sst2": (0.9, 0.9), "trec": (0.74, 0.76), "ag_news": (0.87, 0.87)},
    "lora25": {"sst2": (0.9, 0.9), "trec": (0.9, 0.9), "ag_news": (0.87, 0.87)},
}


def scores(accuracy: float, num_prompt_tokens: int = 40) -> Scores:
    return Scores(
        n=100,
        accuracy=accuracy,
        macro_f1=accuracy,
        ece=0.1,
        interval=(0.0, 1.0),
        seconds=2.0,
        prompt_tokens=100 * num_prompt_tokens,
        cached_tokens=0,
    )


def comparison(task: str, methods: Mapping[str, tuple[float, ...]], *, model: str = "tiny") -> Comparison:
    """What `compare` writes, less the work."""
    cost = {"icl": 500}
    measured = {name: [scores(value, cost.get(name, 40)) for value in values] for name, values in methods.items()}
    synthetic = {"fourshot": 100}
    return Comparison(
        task=task,
        model_name=model,
        model_revision="0",
        seeds=[0, 1],
        rows=[
            method_row(name, name, per_seed, real_examples=8, synthetic_examples=synthetic.get(name, 0))
            for name, per_seed in measured.items()
        ],
        results=[
            SeedResult(method=name, seed=seed, scores=score, real_examples=8, synthetic_examples=0)
            for name, per_seed in measured.items()
            for seed, score in enumerate(per_seed)
        ],
        settings={name: RunSettings() for name in methods},
        versions={"python": "3.11"},
    )


def write(folder: Path, result: Comparison, hardware: str = "cpu2") -> None:
    RunFolder(folder).write(f"compare-{result.task}-{hardware}.json", result)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of all three tasks."""
    for task in TITLES:
        write(tmp_path, comparison(task, {method: values[task] for method, values in ACCURACIES.items()}))
    return tmp_path


def targets_by_name(folder: Path) -> dict[str, Target]:
    return {target.name: target for target in targets(load_comparisons(folder))}


def test_targets_by_hand(folder: Path) -> None:
    by_name = targets_by_name(folder)
    assert by_name["fourshot, mean accuracy"].measured == pytest.approx(84)  # (90 + 75 + 87) / 3
    assert by_name["fourshot above icl, mean"].measured == pytest.approx(34.0)  # (30 + 45 + 27) / 3
    assert by_name["fourshot above lora, mean"].measured == pytest.approx(17 / 3, abs=1e-5)  # (5 + 5 + 7) / 3
    assert by_name["fourshot above lora, worst task"].measured == pytest.approx(5.0)
    assert by_name["fourshot above lora25, mean"].measured == pytest.approx(-5.0)  # (0 - 15 + 0) / 3
    assert by_name["fourshot, calibration error, worst task"].measured == pytest.approx(0.1)  # each
    assert [target.met for target in by_name.values()] == [True, True, True, True, True, False]


def test_each_base_has_a_goal_of_its_own(folder: Path) -> None:
    for task in TITLES:
        methods = {method: values[task] for method, values in ACCURACIES.items()}
        write(folder, comparison(task, methods, model="Qwen2.5-Coder-0.5B-Instruct"))
    assert targets_by_name(folder)["fourshot, mean accuracy"].goal == 81


def test_the_error_before_the_temperature_has_a_target_where_it_was_measured(folder: Path) -> None:
    comparisons = {
        task: msgspec.structs.replace(
            compared,
            rows=tuple(
                msgspec.structs.replace(row, ece_before=0.2 if task == "trec" else 0.05) for row in compared.rows
            ),
        )
        for task, compared in load_comparisons(folder).items()
    }
    (target,) = (target for target in targets(comparisons) if "before" in target.name)
    assert target.measured == pytest.approx(0.2) and not target.met


def test_in_context_calibrated_has_targets_where_it_was_measured(folder: Path) -> None:
    for task, accuracy in (("sst2", 0.8), ("trec", 0.75), ("ag_news", 0.8)):
        methods = {method: values[task] for method, values in ACCURACIES.items()}
        write(folder, comparison(task, methods | {"icl_calibrated": (accuracy, accuracy)}))
    by_name = targets_by_name(folder)
    assert by_name["fourshot above icl_calibrated, mean"].measured == pytest.approx(17 / 3, abs=1e-5)  # 10, 0 and 7
    assert by_name["fourshot above icl_calibrated, worst task"].measured == pytest.approx(0.0, abs=1e-5)


def test_one_task_below_lora_misses_its_target_whatever_the_mean(folder: Path) -> None:
    methods = {method: values["trec"] for method, values in ACCURACIES.items()} | {"lora": (0.76, 0.76)}
    write(folder, comparison("trec", methods))
    by_name = targets_by_name(folder)
    assert by_name["fourshot above lora, mean"].measured == pytest.approx(11 / 3, abs=1e-5)  # 5, -1 and 7
    assert not by_name["fourshot above lora, worst task"].met
    assert by_name["fourshot above lora, worst task"].measured == pytest.approx(-1.0)


def test_the_table_has_a_row_per_method_and_a_column_per_task(folder: Path) -> None:
    text = results_table(load_comparisons(folder))
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert "SST-2 | TREC | AG News | mean" in text
    assert (
        rows["lora"]
        == "| lora | 85.0 ± 1.4 | 70.0 ± 2.8 | 80.0 | 78.3 | 0.10, 0.10, 0.10 | 40, 40, 40 | 8, 8, 8 | 0, 0, 0 |"
    )
    assert rows["fourshot"].endswith("| 84.0 | 0.10, 0.10, 0.10 | 40, 40, 40 | 8, 8, 8 | 100, 100, 100 |")
    (met,) = (line for line in text.splitlines() if line.startswith("- fourshot above lora25, mean: "))
    assert "-5 points" in met and "-6" in met


def test_what_calibration_and_abstaining_gain_has_columns_where_it_was_measured(folder: Path) -> None:
    assert "most confident" not in results_table(load_comparisons(folder))
    for task in TITLES:
        result = comparison(task, {method: values[task] for method, values in ACCURACIES.items()})
        rows = [msgspec.structs.replace(row, surest_80=0.925) for row in result.rows]
        rows[3] = msgspec.structs.replace(rows[3], ece=0.04, ece_before=0.21)
        write(folder, msgspec.structs.replace(result, rows=rows))
    text = results_table(load_comparisons(folder))
    assert "| mean | ECE before the temperature | ECE | accuracy on the most confident 80 % | prompt tokens" in text
    (fourshot,) = (line for line in text.splitlines() if line.startswith("| fourshot | "))
    assert "| 0.21, 0.21, 0.21 | 0.04, 0.04, 0.04 | 92.5, 92.5, 92.5 | 40, 40, 40 |" in fourshot
    assert "| -, -, - | 0.10, 0.10, 0.10 |" in text


def test_the_headline_is_one_number_and_the_baselines_stand_apart(folder: Path) -> None:
    for task in TITLES:
        methods = {method: values[task] for method, values in ACCURACIES.items()} | {"icl_calibrated": (0.7, 0.8)}
        write(folder, comparison(task, methods))
    compared = load_comparisons(folder)
    text = headline(compared)
    assert text.endswith("on the test texts of SST-2, TREC and AG News: **84.0 %**.")
    assert re.findall(r"\d+\.\d+|\d+ %", text) == ["84.0"]
    # fourshot's draws: 83.7 and 84.3 on average; in context, calibrated: 70 and 80; uncalibrated, both draws are equal.
    text = baselines(compared)
    assert "84.0 ± 0.5 %" in text and "75.0 ± 7.1 % bias-corrected and 50.0 % as it is" in text
    assert "500 prompt tokens per text instead of 40" in text


def test_a_method_measured_on_some_tasks_has_no_mean(folder: Path) -> None:
    methods = {method: values["trec"] for method, values in ACCURACIES.items()}
    write(folder, comparison("trec", methods | {"unfiltered": (0.5, 0.5)}))
    assert "| unfiltered | - | 50.0 | - | - | -, 0.10, - | -, 40, - |" in results_table(load_comparisons(folder))


def test_targets_are_written_for_scripts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "compare-targets.json"
    docs.run(docs.Options(results=folder, targets=True, out=out))
    written = json.loads(out.read_text())
    assert [set(target) for target in written["targets"]] == [{"name", "unit", "measured", "goal", "met"}] * 6
    assert "fourshot above lora25, mean: " in capsys.readouterr().out
    assert load_comparisons(folder), "the targets beside the results are not taken for a result"


def test_without_a_task_nothing_is_computed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "compare-trec-cpu2.json").unlink()
    with pytest.raises(InputError, match=r"no result for trec.*fourshot compare"):
        docs.run(docs.Options(results=folder, targets=True))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("missing", ["fourshot", "icl", "lora", "lora25"])
def test_without_a_method_there_are_no_targets(folder: Path, missing: str) -> None:
    methods = {method: values["sst2"] for method, values in ACCURACIES.items() if method != missing}
    write(folder, comparison("sst2", methods))
    with pytest.raises(InputError, match=f"method {missing} was not measured on sst2"):
        targets(load_comparisons(folder))


def test_two_results_for_a_task_need_a_choice(folder: Path) -> None:
    methods = {method: values["sst2"] for method, values in ACCURACIES.items()}
    write(folder, comparison("sst2", methods | {"fourshot": (0.1, 0.1)}), hardware="gpu1")
    with pytest.raises(InputError, match="two results for sst2"):
        load_comparisons(folder)
    assert load_comparisons(folder, "cpu2")["sst2"].row("fourshot").accuracy == pytest.approx(0.9)  # type: ignore[union-attr]


def test_results_of_different_models_are_not_put_together(folder: Path) -> None:
    write(folder, comparison("sst2", {"fourshot": (0.9, 0.9)}, model="large"))
    with pytest.raises(InputError, match="no result for trec, ag_news with the base large"):
        load_comparisons(folder)


def test_every_base_has_its_table_and_the_embedded_one_comes_first(folder: Path) -> None:
    alone = base_tables(load_bases(folder), results_table)
    assert alone == results_table(load_comparisons(folder))
    for name, file in ((EMBEDDED, "cpu2"), ("/models/large", "large-cpu2")):
        for task in TITLES:
            measured = {method: values[task] for method, values in ACCURACIES.items()}
            write(folder, comparison(task, measured, model=name), hardware=file)
    bases = load_bases(folder)
    assert list(bases) == [EMBEDDED, "/models/large"]
    assert load_comparisons(folder)["trec"].model_name == EMBEDDED
    text = base_tables(bases, results_table)
    assert text.startswith(f"**{EMBEDDED}**\n\nAccuracy in per cent")
    assert "**large**" in text and "large; 100, 100 and 100 test texts" in text
    assert text.count("| fourshot | 90.0 |") == text.count("Targets (") == 2


def test_the_short_table_has_means_over_the_tasks_where_every_task_was_measured(folder: Path) -> None:
    lines = short_table(load_comparisons(folder)).splitlines()
    assert lines[0] == "|  | SST-2 | TREC | AG News | mean | ECE | prompt tokens per text |"
    assert "| icl | 60.0 | 30.0 | 60.0 | 50.0 | 0.10 | 500 |" in lines
    write(
        folder, comparison("trec", {method: values["trec"] for method, values in ACCURACIES.items() if method != "icl"})
    )
    assert "| icl | 60.0 | - | 60.0 | - | - | - |" in short_table(load_comparisons(folder)).splitlines()


def test_a_further_base_may_be_measured_on_some_of_the_tasks(folder: Path) -> None:
    measured = {method: values["trec"] for method, values in ACCURACIES.items()}
    write(folder, comparison("trec", measured, model="wide"), hardware="wide-cpu2")
    first, further = load_bases(folder).values()
    assert list(further) == ["trec"] and list(first) == list(TITLES)
    assert "wide; 100 test texts" in (table := results_table(further))
    assert "|  | TREC | mean |" in table


@pytest.mark.parametrize("content", ["", "{}", '{"schema": 1, "task": "sst2"}'])
def test_a_file_that_is_no_result_is_named(folder: Path, content: str) -> None:
    (folder / "compare-sst2-cpu2.json").write_text(content)
    with pytest.raises(InputError, match=r"compare-sst2-cpu2\.json"):
        load_comparisons(folder)


def test_what_the_instruction_is_worth_by_hand(tmp_path: Path) -> None:
    """40 prompt tokens with the instruction, 25 without, 500 in context."""
    methods = {
        **dict.fromkeys(("lora", "lora_bare"), (0.7, 0.8)),
        "fourshot": (0.8, 0.82),
        "fourshot_bare": (0.79, 0.79),
        **dict.fromkeys(("lora25", "lora25_bare"), (0.9, 0.9)),
    }
    for task in TITLES:
        both = comparison(task, methods)
        bare_row = method_row("fourshot_bare", "bare", [scores(value, 25) for value in methods["fourshot_bare"]])
        rows = [bare_row if row.method == "fourshot_bare" else row for row in both.rows]
        RunFolder(tmp_path).write(f"bare-{task}-cpu2.json", msgspec.structs.replace(both, rows=rows))
        write(tmp_path, comparison(task, {"icl": (0.6, 0.6)}))
    bare, compared = load_comparisons(tmp_path, prefix="bare"), load_comparisons(tmp_path)
    by_name = {line.split(" | ")[0].strip("| "): line for line in wordings_table(bare, compared).splitlines()}
    # The draws lose 1 and 3 points: 2 on average, with a sample standard deviation of 1.4.
    assert by_name["fourshot"] == f"| fourshot |{' 81.0, 79.0 (-2.0 ± 1.4) |' * 3} 81.0, 79.0 (-2.0) |"
    assert by_name["prompt tokens per text"] == f"| prompt tokens per text |{' 40.0, 25.0 |' * 4}"
    relative = "prompt tokens in context, relative"
    assert by_name[relative] == f"| {relative} |{' 12.5, 20.0 |' * 4}"
    write(tmp_path, comparison("trec", {name: values for name, values in methods.items() if name != "lora_bare"}))
    (tmp_path / "compare-trec-cpu2.json").rename(tmp_path / "bare-trec-cpu2.json")
    with pytest.raises(InputError, match="lora_bare was not measured on trec"):
        wordings_table(load_comparisons(tmp_path, prefix="bare"), compared)
