"""Of every table, each row is an example or counted as left out; what is in doubt is asked for."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourshot.engine.errors import InputError
from fourshot.pipeline.faults import errors_in
from fourshot.pipeline.rows.examples import load_split
from fourshot.pipeline.rows.labels.cells import read_label
from fourshot.pipeline.rows.usable_rows import TableChoices, UsableRows, usable_rows
from fourshot.pipeline.tables.files import ReadSettings, Table
from fourshot.pipeline.tasks.new_task import new_task
from fourshot.pipeline.tasks.task_file import check_task, load_task

EXAMPLES = int(os.environ.get("FOURSHOT_EXAMPLES", "0"))  # 0: a few, always the same
LENIENT = TableChoices(
    text_columns=("text",),
    label_columns=("label",),
    verdict_column="none",
    merge_labels=True,
    reading=ReadSettings(skip_broken=True),
)
WORDS = ["billing", "Billing", "lock", "damage", "lock#damage", "caf\u00e9", "cafe\u0301", "\u200block", "nan", "[]"]
WORDS += ["['lock']", "['lock', 'billing']", "b'lock'", "True", "TRUE", "1.0", "-1", "A", "A-", "a b", "a_b", "{}", "("]
ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(WORDS)
CELLS = ATOMS | st.binary(max_size=5) | st.lists(ATOMS, max_size=3) | st.dictionaries(st.text(max_size=3), ATOMS)
TEXTS = st.sampled_from(["one text", "One  text", "another", "", " ", "nan"]) | CELLS


def table_of(*rows: dict[str, Any]) -> Table:
    columns = dict.fromkeys(key for row in rows for key in row)
    return Table(path="t.csv", columns=tuple(columns), rows=dict(enumerate(rows, start=2)))


def use(rows: list[tuple[Any, Any]], choices: TableChoices = TableChoices()) -> UsableRows:  # noqa: B008
    return usable_rows(table_of(*({"text": text, "label": label} for text, label in rows)), choices)


def labels_of(used: UsableRows) -> list[str]:
    return [example.label for example in used.examples]


def left_out(used: UsableRows) -> dict[str, tuple[int, ...]]:
    return {some.reason: some.lines for some in used.left_out}


def texts(*labels: Any, times: int = 1) -> list[tuple[str, Any]]:
    """Rows of different texts."""
    return [(f"note number {i}/{place}", label) for i in range(times) for place, label in enumerate(labels)]


@settings(max_examples=EXAMPLES or 40, derandomize=not EXAMPLES, deadline=None)
@given(st.lists(st.fixed_dictionaries({}, optional={"text": TEXTS, "label": CELLS, "other": ATOMS}), min_size=1))
def test_every_row_of_any_table_is_an_example_or_left_out_once(rows: list[dict[str, Any]]) -> None:
    table = table_of({"text": "one text", "label": "lock"}, *rows)
    used = usable_rows(table, LENIENT)
    gone = [line for some in used.left_out for line in some.lines]
    assert len(used.examples) + len(gone) == len(table.rows)
    assert len(set(gone)) == len(gone) and set(gone) <= table.rows.keys()
    assert all(some.count == len(some.lines) for some in used.left_out)
    assert all(example.text.strip() and read_label(example.label).labels for example in used.examples)
    try:
        strict = usable_rows(table, TableChoices())
    except InputError:
        return
    assert not {"no_label", "several_labels", "not_label", "not_text"} & left_out(strict).keys()


@settings(max_examples=EXAMPLES or 40, derandomize=not EXAMPLES, deadline=None)
@given(st.lists(st.tuples(TEXTS | st.text(), CELLS), max_size=12))
def test_every_row_of_any_file_is_in_the_task_or_left_out(rows: list[tuple[Any, Any]]) -> None:
    rows += texts("lock", "damage", times=12)  # more than there can be classes of one row
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "t.jsonl"
        lines = [json.dumps({"text": text, "label": label}, default=repr) for text, label in rows]
        file.write_text("\n".join(lines), encoding="utf-8")
        report = new_task(file, Path(folder) / "out", LENIENT)
        task = load_task(report.task_file)
        splits = [load_split(task, split) for split in ("train", "test")]
        assert not errors_in(check_task(report.task_file))
    assert report.rows == len(rows) == report.train + report.test + sum(some.count for some in report.left_out)
    assert [len(split.examples) for split in splits] == [report.train, report.test]


def test_booleans_are_two_classes_however_they_are_spelled() -> None:
    used = use(texts(True, "true", "TRUE", False, "False", True))
    assert labels_of(used) == ["True", "True", "True", "False", "False", "True"]
    assert {fault.what.split(" in ")[0] for fault in used.notices} == {
        "'true' was read as 'True'",
        "'TRUE' was read as 'True'",
    }


def test_numbers_keep_their_signs_and_lose_a_fraction_of_zero() -> None:
    assert labels_of(use(texts("-1.0", "0.0", "1", "1.0", "-0.0", -1))) == ["-1", "0", "1", "1", "0", "-1"]
    assert labels_of(use(texts("1.0", "1.1", "2.0"))) == ["1.0", "1.1", "2.0"]  # versions
    assert labels_of(use(texts("007", "008"))) == ["007", "008"]  # codes
    with pytest.raises(InputError, match=r"read the same: '4' and '4\.0'"):
        use(texts("4", "4.0", "4.5", "5"))


def test_grades_with_and_without_a_minus_are_classes_of_their_own() -> None:
    assert labels_of(use(texts("A", "A-", "B+"))) == ["A", "A-", "B+"]


def test_a_list_of_one_is_its_element_and_that_is_said() -> None:
    used = use(texts(["lock"], "['billing']", "lock"))
    assert labels_of(used) == ["lock", "billing", "lock"]
    assert [fault.what for fault in used.notices] == [
        "2 labels written as a list of one element: the element was used (line 2, 3)."
    ]


@pytest.mark.parametrize(
    "both", [["lock", "damage"], "['lock', 'damage']", "lock#damage", "damage;lock", "lock, damage"]
)
def test_several_labels_are_refused_with_their_lines_or_left_out_on_demand(both: Any) -> None:
    rows = texts("lock", "damage", both)
    with pytest.raises(InputError, match=r"(?s)several labels in line 4 \(1 row.*one class per text.*--skip-broken"):
        use(rows)
    assert left_out(use(rows, LENIENT)) == {"several_labels": (4,)}


@pytest.mark.parametrize("empty", [None, float("nan"), "", " ", "NaN", [], "[]", "null", "\\N"])
def test_rows_without_a_label_are_refused_with_their_lines_or_left_out_on_demand(empty: Any) -> None:
    rows = texts("lock", empty, "damage", empty)
    with pytest.raises(InputError, match=r"no label in line 3, 5 \(2 rows.*\n.*--skip-broken"):
        use(rows)
    assert left_out(use(rows, LENIENT)) == {"no_label": (3, 5)}


def test_a_name_that_often_means_no_label_is_pointed_out_and_can_be_left_out() -> None:
    rows = texts("lock", "damage", "None")
    assert ["--missing-label=None" in str(fault) for fault in use(rows).notices] == [True]
    used = use(rows, TableChoices(missing_labels=("None",)))
    assert [(some.reason, some.what, some.lines) for some in used.left_out] == [
        ("marked_missing", "with a label that means none (--missing-label)", (4,))
    ]
    for name in ("Skip", "skipped", "unsure", "TODO"):
        assert [f"--missing-label={name}" in str(fault) for fault in use(texts("lock", name)).notices] == [True]
    assert ["--missing-label=-1" in str(fault) for fault in use(texts(0, 1, 2, -1)).notices] == [True]
    assert not use(texts(0, 1, -1)).notices  # negative, neutral, positive


def test_a_class_cannot_be_called_like_a_missing_value_and_that_is_said() -> None:
    with pytest.raises(InputError, match=r"such as 'null'\)\. .*If it is a class, rename it"):
        use(texts("lock", "null"))


def test_names_that_are_long_or_perhaps_several_labels_are_pointed_out() -> None:
    notices = use(texts("lock", "lock; bell", "x" * 300)).notices
    assert [fault.what.split(" became")[0] for fault in notices] == ["'lock; bell'", f"'{'x' * 57}...'"]
    assert "several labels?" in notices[0].remedy and "300 characters" in notices[1].remedy


def test_a_second_header_line_and_a_total_are_pointed_out() -> None:
    rows = [("message", "category"), *texts("lock", "damage", "lock", "damage", "rare", "lock", "damage"), ("Sum", "7")]
    notices = use(rows).notices
    assert [fault.what for fault in notices] == [
        "'category' became a class of line 2 alone.",
        "'7' became a class of line 10 alone.",
    ]
    assert "a second header line, or a total" in notices[0].remedy
    assert not use(texts("lock", "damage", "bell")).notices


def test_a_text_that_is_none_is_left_out_even_where_it_has_no_label() -> None:
    used = use([*texts("lock", "damage"), (float("nan"), "lock"), (None, None), ("", "lock"), ("nan", "")])
    assert left_out(used) == {"empty_text": (4, 5, 6, 7)}


def test_a_text_that_is_a_number_is_refused_with_its_line() -> None:
    with pytest.raises(InputError, match=r"a text that is not a string in line 4 .*'text', such as '5'.*text column"):
        use([*texts("lock", "damage"), (5, "lock")])
    rows = [{"a": "one", "b": 5, "label": label} for label in ("lock", "damage")]
    with pytest.raises(InputError, match=r"column 'a' and 'b', such as '5'\)"):
        usable_rows(table_of(*rows), TableChoices(fields=("a", "b")))


@pytest.mark.parametrize(
    ("form", "sign"),
    [("{}\n\n###\n", "ends with '\\n\\n###'"), ("b'{}'", 'begins with "b\'"'), ("{}.", ""), ("a {}", "")],
)
def test_signs_around_each_text_are_pointed_out(form: str, sign: str) -> None:
    used = use([(form.format(f"{word} text"), "lock") for word in ("one", "two", "three")])
    assert [fault.what.removeprefix("each text ") for fault in used.notices] == ([f"{sign}."] if sign else [])


@pytest.mark.parametrize(
    "text", ["19 \u0080", "f\u00c3\u00bcr dich", "it\u00e2\u20ac\u2122s", "5\u00c2\u00a0km", "caf\ufffd", "a_x000D_\nb"]
)
def test_texts_that_were_read_in_another_encoding_are_pointed_out(text: str) -> None:
    notices = use([(text, "lock"), ("S\u00c3O PAULO, \u00c2ngela", "damage")]).notices
    assert [fault.what.partition(",")[0] for fault in notices] == ["1 row with signs of another encoding"]


def test_a_missing_label_that_stands_nowhere_is_pointed_out() -> None:
    used = use(texts("lock", "damage"), TableChoices(missing_labels=("none",)))
    assert [fault.what for fault in used.notices] == ["no label is 'none', as --missing-label says."]


def test_names_that_look_the_same_are_one_class_and_that_is_said() -> None:
    used = use(texts("caf\u00e9", "cafe\u0301", "\u200block", "lock "))
    assert labels_of(used) == ["caf\u00e9", "caf\u00e9", "lock", "lock"]
    assert ["NFC" in fault.what for fault in used.notices] == [True, False]


@pytest.mark.parametrize(("first", "second"), [("01", "1"), ("\u0130ade", "iade"), ("\u2460", "1")])
def test_zeros_in_front_and_a_turkish_capital_make_no_class(first: str, second: str) -> None:
    with pytest.raises(InputError, match="labels that read the same"):
        use(texts(first, second, "2"))


def test_numbers_with_a_comma_lose_a_fraction_of_zero_and_thousands_stay() -> None:
    assert labels_of(use(texts("1,0", "1", "2,00"))) == ["1", "1", "2"]
    assert labels_of(use(texts("1,000", "2,000"))) == ["1,000", "2,000"]


def test_names_that_read_the_same_are_refused_with_a_proposal_or_merged_on_demand() -> None:
    rows = texts("Bug", "bug", "bug", "late-fee", "late fee", "late fee")
    with pytest.raises(InputError, match=r"'Bug' and 'bug'; 'late fee' and 'late-fee'.*'bug', 'late fee': --merge"):
        use(rows)
    used = use(rows, TableChoices(merge_labels=True))
    assert labels_of(used) == ["bug"] * 3 + ["late fee"] * 3
    assert len(used.notices) == 2


def test_annotators_who_agree_give_one_row_and_those_who_do_not_none() -> None:
    used = use(
        [("a text", "lock"), ("A  text", "lock"), ("b text", "lock"), ("b text", "damage"), ("c text", "damage")]
    )
    assert left_out(used) == {"duplicate": (3,), "contradiction": (4, 5)}
    assert labels_of(used) == ["lock", "damage"]


def test_annotators_in_columns_of_their_own_must_agree() -> None:
    votes = [("lock", "Lock "), ("lock", ""), ("damage", "lock"), ("damage", ["damage"]), (None, None)]
    table = table_of(*({"text": f"note {i}", "ann": a, "bob": b} for i, (a, b) in enumerate(votes)))
    with pytest.raises(InputError, match=r"no label in line 6 .*columns? 'ann' and 'bob'"):
        usable_rows(table, TableChoices(text_columns=("text",), label_columns=("ann", "bob")))
    used = usable_rows(table, msgspec.structs.replace(LENIENT, label_columns=("ann", "bob")))
    assert labels_of(used) == ["lock", "lock", "damage"]
    assert left_out(used) == {"contradiction": (4,), "no_label": (6,)}
    table = table_of(*({"text": f"note {i}", "ann": a, "bob": b or "-1"} for i, (a, b) in enumerate(votes[1:3] * 2)))
    used = usable_rows(table, TableChoices(label_columns=("ann", "bob"), missing_labels=("-1", "lock")))
    assert (labels_of(used), left_out(used)) == (["damage"] * 2, {"marked_missing": (2, 4)}) and not used.notices


def verdict_rows(column: str, *verdicts: str) -> Table:
    rows = texts("lock", "damage", times=len(verdicts) // 2)
    pairs = zip(rows, verdicts, strict=True)
    return table_of(*({"text": text, "label": label, column: verdict} for (text, label), verdict in pairs))


def test_what_a_person_rejected_in_prodigy_is_left_out_and_counted() -> None:
    table = verdict_rows("answer", "accept", "accept", "reject", "ignore")
    used = usable_rows(table, TableChoices())
    assert used.columns.verdict == "answer"
    assert left_out(used) == {"answer=reject": (4,), "answer=ignore": (5,)}
    kept = usable_rows(
        verdict_rows("answer", "accept", "accept", "reject", "ignore"), TableChoices(verdict_column="none")
    )
    assert not kept.left_out


def test_a_table_of_which_prodigy_rejected_all_has_nothing_left() -> None:
    used = usable_rows(verdict_rows("answer", "reject", "reject"), TableChoices())
    assert (used.examples, left_out(used)) == ([], {"answer=reject": (2, 3)})


@pytest.mark.parametrize("yes", [True, 1.0, "Approved", ["accepted"]])
def test_verdicts_are_read_as_labels_are(yes: object) -> None:
    rows = [{"text": f"note {i}", "label": "lock", "ok": yes if i else None} for i in range(3)]
    assert left_out(usable_rows(table_of(*rows), TableChoices(label_columns=("label",), verdict_column="ok"))) == {
        "ok=": (2,)
    }


@pytest.mark.parametrize("no", ["rejected", "RETURNED", "timed-out"])
def test_another_column_of_verdicts_is_asked_for(no: str) -> None:
    table = verdict_rows("status", "approved", "approved", no, "")
    with pytest.raises(InputError, match=r"'status' \(approved\) may say.*--verdict-column status.*-column none"):
        usable_rows(table, TableChoices())
    used = usable_rows(table, TableChoices(verdict_column="status"))
    assert left_out(used) == {f"status={no}": (4,), "status=": (5,)}
