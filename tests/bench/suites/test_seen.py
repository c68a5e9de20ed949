"""What was seen when: every result with scores of test texts is on the list, and the list is a table."""

from pathlib import Path

import pytest

from fourshot.bench.core.comparisons import read_comparison
from fourshot.bench.core.results import RESULTS, read_result, short_name
from fourshot.bench.suites.docs import SEEN_FILE, load_spot_checks, spot_check_table
from fourshot.bench.suites.paper.scores import base_results
from fourshot.engine.errors import InputError


def test_every_score_of_test_texts_that_is_kept_is_on_the_list() -> None:
    checks = {(check.base, check.commit) for check in load_spot_checks(RESULTS)}
    scored = set()
    for file in [*RESULTS.glob("compare-*-*.json"), *RESULTS.glob("bare-*-*.json")]:
        comparison = read_comparison(file)
        scored.add((short_name(comparison.model_name), comparison.commit))
    for file in RESULTS.glob("paper-*.json"):
        for base in base_results(read_result(file, "paper")).values():
            scored |= {(short_name(base.model), source["commit"]) for source in base.sources}
    for file in RESULTS.glob("diversity-*.json"):
        result = read_result(file, "diversity")
        scored.add((short_name(result["settings"]["model"]), result["commit"]))
    assert scored and not scored - checks, f"add what was seen, and why, to {RESULTS / SEEN_FILE}"


def test_the_table_has_a_row_for_each_spot_check(tmp_path: Path) -> None:
    look = '[[seen]]\nwhen = "2026-01-02"\nbase = "tiny"\ncommit = ""\ntexts = "test: all"\nwhy = "the table"\n'
    (tmp_path / SEEN_FILE).write_text(look)
    assert spot_check_table(tmp_path).splitlines()[2] == "| 2026-01-02 | tiny | test: all | the table | - |"


@pytest.mark.parametrize("content", ["", "[[seen]]\nwhen = 3\n", "[[seen"])
def test_a_file_that_is_no_list_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / SEEN_FILE).write_text(content)
    with pytest.raises(InputError, match=rf"{SEEN_FILE} is not a list of spot checks.*when, base, commit, texts, why"):
        load_spot_checks(tmp_path)
    (tmp_path / SEEN_FILE).unlink()
    with pytest.raises(InputError, match="cannot be read"):
        load_spot_checks(tmp_path)
