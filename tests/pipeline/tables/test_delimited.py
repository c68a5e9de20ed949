"""Dialects of CSV: what is plain is read whatever wrote it, what is not is refused or asked for, with its line."""

from pathlib import Path

import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.tables.files import ReadSettings, Table, read_table

ROWS = [("The lock, it jams.", "lock"), ("Charged two times.", "billing"), ("The lock is stuck.", "lock")]


def write(folder: Path, content: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(folder: Path, content: str | bytes, name: str = "t.csv", settings: ReadSettings | None = None) -> Table:
    return read_table(write(folder, content, name), settings or ReadSettings())


def pairs(table: Table) -> list[tuple[str, str]]:
    return [(row["text"], row["label"]) for row in table.rows.values()]


PLAIN = 'text,label\n"The lock, it jams.",lock\nCharged two times.,billing\nThe lock is stuck.,lock\n'


@pytest.mark.parametrize("blank", [",\n", ";;;\n;;;\n", ' ,""\n'])
def test_blank_lines_of_a_spreadsheet_above_the_names_are_passed_over(tmp_path: Path, blank: str) -> None:
    content = PLAIN if "," in blank else "text;label;a;b\nThe lock, it jams.;lock;;\nCharged two times.;billing;;\n"
    table = read(tmp_path, blank + content)
    assert list(table.columns)[:2] == ["text", "label"] and pairs(table)[:2] == ROWS[:2]
    numbered = read(tmp_path, blank + content, settings=ReadSettings(header=False))
    assert list(numbered.columns)[:2] == ["1", "2"]


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.replace("\n", "\r"),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r\r\n"),
        "sep=,\n" + PLAIN,
        '"sep=;"\r\ntext;label\r\nThe lock, it jams.;lock\r\nCharged two times.;billing\r\nThe lock is stuck.;lock\r\n',
        PLAIN.replace("text,label", '"text","label"'),
        PLAIN.replace(",lock", ", lock").replace(",billing", ", billing").replace(",label", ", label"),
        "text|label\nThe lock, it jams.|lock\nCharged two times.|billing\nThe lock is stuck.|lock",
        "text\tlabel\nThe lock, it jams.\tlock\nCharged two times.\tbilling\nThe lock is stuck.\tlock\n",
        PLAIN + ",,,\n",
        PLAIN.replace(",lock\n", ",lock,,\n"),
    ],
)
def test_what_spreadsheets_and_programs_write_is_read_alike(tmp_path: Path, content: str) -> None:
    table = read(tmp_path, content)
    assert [(text.strip(), label.strip()) for text, label in pairs(table) if text] == ROWS
    assert table.columns == ("text", "label")


def test_cells_in_quotes_after_a_blank_and_with_backslashes_are_told_from_what_fits_the_whole_file(
    tmp_path: Path,
) -> None:
    blank = read(tmp_path, 'label, text\nlock, "The lock, it jams."\nbilling, "Charged, twice."\n')
    assert [row["text"] for row in blank.rows.values()] == ["The lock, it jams.", "Charged, twice."]
    backslash = read(tmp_path, 'text,label\n"He said \\"no, thanks\\".",lock\n"Fine, then",billing\n')
    assert pairs(backslash) == [('He said "no, thanks".', "lock"), ("Fine, then", "billing")]
    assert "with a backslash" in str(backslash.notices[0])


@pytest.mark.parametrize(
    ("written", "text", "kept"),
    [
        (
            r"C:\temp\new, \alpha and \\server, \"no\" twice\\",
            'C:\\temp\\new, \\alpha and \\\\server, "no" twice\\',
            True,
        ),  # Spark
        (r"a, \"no\" of C:\\x\\", 'a, "no" of C:\\x\\', False),  # MySQL
        (r"a, \"no\"\nand C:\\x", 'a, "no"\\nand C:\\x', True),
        (r"she said \"no\"", 'she said "no"', False),  # nothing that needs the quotes
    ],
)
@pytest.mark.parametrize("mark", [",", ";"])
def test_backslashes_that_escape_nothing_stay_in_the_texts(
    tmp_path: Path, mark: str, written: str, text: str, kept: bool
) -> None:
    table = read(tmp_path, f'"text"{mark}"label"\n"{written}"{mark}"a"\n"Fine"{mark}"b"\n')
    assert pairs(table) == [(text, "a"), ("Fine", "b")]
    warnings = [notice.what for notice in table.notices if notice.severity == "warning"]
    assert ["backslashes before other characters" in what and "(line 2)" in what for what in warnings] == [True] * kept
    assert any("with a backslash" in str(notice) for notice in table.notices)


def test_tabs_without_quoting_give_as_many_rows_as_lines(tmp_path: Path) -> None:
    lines = [
        '"A beauty , they said',
        "Mould on it.",
        'no mess" and left soil',
        '"Great" , he said',
        'a "quote"',
    ]
    table = read(tmp_path, "text\tlabel\n" + "".join(f"{line}\tx\n" for line in lines), "t.tsv")
    assert [row["text"] for row in table.rows.values()] == lines
    assert "quotes as characters" in str(table.notices[0])


def test_quotes_that_may_join_lines_or_not_are_warned_about(tmp_path: Path) -> None:
    lines = ["Fine.", '"Great , he said', "Bad.", 'and left"', "Good."]
    tabs = read(tmp_path, "text\tlabel\n" + "".join(f"{line}\tx\n" for line in lines), "t.tsv")
    assert [row["text"] for row in tabs.rows.values()] == lines
    commas = read(tmp_path, 'text,label\nFine.,a\n"Hello,\nthe lock jams",b\nBad.,a\n')
    assert pairs(commas)[1] == ("Hello,\nthe lock jams", "b")
    for table in (tabs, commas):
        [notice] = table.notices
        assert notice.severity == "warning"
        assert "From line 3 on, several lines could also be one cell, or rows of their own" in str(notice)


def test_tabs_with_quoting_are_read_with_it_where_a_writer_left_no_doubt(tmp_path: Path) -> None:
    two_lines = read(tmp_path, 'text\tlabel\n"One\nline more"\ta\nPlain.\tb\n', "t.tsv")
    assert pairs(two_lines) == [("One\nline more", "a"), ("Plain.", "b")]
    doubled = read(tmp_path, 'text\tlabel\n"He said ""no""."\ta\nPlain.\tb\n', "t.tsv")
    assert pairs(doubled) == [('He said "no".', "a"), ("Plain.", "b")]
    all_quoted = read(tmp_path, '"text"\t"label"\n"One\tx\nline"\t"a"\n"Two."\t"b"\n', "t.tsv")
    assert pairs(all_quoted) == [("One\tx\nline", "a"), ("Two.", "b")]
    every_cell = read(tmp_path, '"text"\t"label"\n"One."\t"a"\n"Two."\t"b"\n', "t.tsv")
    assert pairs(every_cell) == [("One.", "a"), ("Two.", "b")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('text,label\nfine,a\n"opens, and never closes,b\nfine,c\n', r":3: a quote opens a cell here"),
        ('text,label\n"Great" he said, she said,a\nfine,b\n', r":2: a quote opens a cell here"),
        ("a;b,c\nd;e,f\n", r"cannot tell what separates the cells: ',' and ';'.*sep=;"),
    ],
)
def test_quotes_and_separators_that_fit_no_dialect_are_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, content)


def test_a_cell_of_any_length_is_read(tmp_path: Path) -> None:
    long = "word " * 60_000
    assert pairs(read(tmp_path, f"text,label\n{long},a\nshort,b\n"))[0] == (long, "a")


def test_columns_without_a_name_are_called_by_their_place_and_what_is_in_them_is_said(tmp_path: Path) -> None:
    empty = read(tmp_path, "v1,v2,,,\nham,Hello there.,,,\nspam,Win now!,,,\n")
    assert (empty.columns, empty.notices) == (("v1", "v2"), ())
    table = read(tmp_path, "v1,v2,,,\nham,Hello there.,,,\nspam,Win now!, you won,,\nham,Bye.,,,\n")
    assert table.columns == ("v1", "v2", "3")
    assert table.rows[3]["3"] == " you won"
    [notice] = table.notices
    assert "1 row with a value in a column without a name (line 3)" in str(notice)


@pytest.mark.parametrize(
    ("content", "evidence"),
    [
        (
            "billing,Charged two times.\nlock,Stuck.\nbilling,Wrong sum.\n",
            "'billing' is also in 1 more row of column 1",
        ),
        ("3,Cranes stand still\n3,Dockers stop\n1,Rates rise\n", "'3' is also in 1 more row"),
        ("The lock does not open.,Lock\nStuck.,lock\n", "'The lock does not open.' is a sentence"),
        ("Complaints 2024,\ntext,label\nStuck.,lock\n", "column 2 has no name, but values in 2 rows"),
    ],
)
def test_a_first_line_that_looks_like_an_example_is_asked_for(tmp_path: Path, content: str, evidence: str) -> None:
    with pytest.raises(InputError, match=r":1: the first line looks like an example") as caught:
        read(tmp_path, content)
    assert evidence in str(caught.value)
    assert "--no-header" in str(caught.value)
    rows = len(content.splitlines())
    without = read(tmp_path, content, settings=ReadSettings(header=False))
    assert (without.columns, len(without.rows)) == (("1", "2"), rows)
    assert len(read(tmp_path, content, settings=ReadSettings(header=True)).rows) == rows - 1


def test_names_that_are_the_question_of_a_survey_or_a_number_are_no_examples(tmp_path: Path) -> None:
    assert len(read(tmp_path, "What did you like best about it?,team\nAll of it.,a\nIt went well.,b\n").rows) == 2
    assert len(read(tmp_path, ",0,1\n0,Fine.,1\n1,Bad.,0\n").rows) == 2


@pytest.mark.parametrize("mark", [",", "\t"])
def test_the_numbers_of_rows_that_r_writes_are_a_column_without_a_name(tmp_path: Path, mark: str) -> None:
    lines = ['"text"|"label"', '"1"|"One, and more."|"a"', '"2"|"Two."|"b"']
    table = read(tmp_path, "\n".join(lines).replace("|", mark))
    assert pairs(table) == [("One, and more.", "a"), ("Two.", "b")]
    assert "the first was read as the row number, as R writes it" in " ".join(map(str, table.notices))


def test_a_line_that_repeats_the_names_is_left_out_and_counted(tmp_path: Path) -> None:
    table = read(tmp_path, "text,label\nStuck.,lock\ntext,label\nCharged.,billing\n\ufefftext,label\n")
    assert pairs(table) == [("Stuck.", "lock"), ("Charged.", "billing")]
    [gone] = table.left_out
    assert (gone.reason, gone.count, gone.lines) == ("repeated_header", 2, (3, 5))


def test_a_table_in_markdown_has_no_row_of_signs(tmp_path: Path) -> None:
    table = read(tmp_path, "| text | label |\n| --- | :---: |\n| Stuck. | lock |\n| --- | --- |\n")
    cells = [(row["text"].strip(), row["label"].strip()) for row in table.rows.values()]
    assert cells == [("Stuck.", "lock"), ("---", "---")]
    assert [(gone.reason, gone.lines) for gone in table.left_out] == [("rule", (2,))]


def test_rows_of_another_width_are_errors_or_left_out_as_asked(tmp_path: Path) -> None:
    lines = "".join(f"text {place},{'x,' * (place % 2)}a\n" for place in range(30))
    with pytest.raises(InputError) as caught:
        read(tmp_path, "text,label\n" + lines)
    faults = str(caught.value).splitlines()
    assert len(faults) == 11
    assert faults[0].endswith("3 fields where the header has 2 (separator ',').")
    assert 'Put texts that contain the separator in "double quotes"' in faults[-1]
    assert "5 more rows with more or fewer fields than the header" in faults[-1]
    assert "--skip-broken" in faults[-1]
    table = read(tmp_path, "text,label\n" + lines, settings=ReadSettings(skip_broken=True))
    assert len(table.rows) == 15
    [gone] = table.left_out
    assert (gone.reason, gone.count, gone.lines) == ("field_count", 15, tuple(range(3, 32, 2)))


def test_a_line_above_the_names_is_asked_about(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("# exported by X,2024\ntext,label\nIt is hot.,warm\nIt is icy.,cold\n")
    with pytest.raises(
        InputError, match=r"the next one, 'text, label', has usual column names.*remove what is above it"
    ):
        read_table(path)
    path.write_text("text,label\ncomment,topic\nIt is icy.,cold\n")
    assert len(read_table(path).rows) == 2


def test_a_row_of_one_column_without_a_text_is_a_row(tmp_path: Path) -> None:
    """As pandas writes it: a line of two quotes, and no blank one, which is passed over in any table."""
    rows = read(tmp_path, 'text\nIt is hot.\n""\n\nIt is icy.\n').rows
    assert [row["text"] for row in rows.values()] == ["It is hot.", "", "It is icy."]
    assert list(read(tmp_path, 'text,label\nIt is hot.,warm\n""\nIt is icy.,cold\n').rows) == [2, 4]


def test_files_in_quotes_one_after_the_other_are_read_as_one(tmp_path: Path) -> None:
    parts = [f'\ufeff"text","label"\n"It is {word}, very.","warm"\n' for word in ("hot", "mild")]
    table = read(tmp_path, "".join(parts))
    assert pairs(table) == [("It is hot, very.", "warm"), ("It is mild, very.", "warm")]
    assert [part.lines for part in table.left_out] == [(3,)]
    assert len(read(tmp_path, parts[0] + '\ufeff"It is mild, very.","warm"\n').rows) == 2
