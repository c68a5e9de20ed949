"""The command answers at once: asking it what it can do costs no model library."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fourshot.bench.suites import SUITES
from fourshot.cli import main as cli
from fourshot.cli.declare import COMMANDS, setting
from fourshot.pipeline.synthesis.settings import PRESETS
from fourshot.serving.settings import Limits

ROOT = Path(__file__).resolve().parent.parent.parent


def test_help_loads_nothing_that_takes_time_to_load() -> None:
    """So it answers at once: every other library is imported by the command that needs it."""
    code = (
        "import sys\nat_start = {*sys.modules}\nimport contextlib, io\nfrom fourshot.cli import main as cli\n"
        "with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):\n"
        "    cli.main(['--help'])\n"
        "assert 'usage: ' in shown.getvalue()\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules.keys() - at_start} - sys.stdlib_module_names))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {*loaded.stdout.split()} <= {"fourshot", "msgspec", "filelock", "typing_extensions"}


def test_every_command_and_every_option_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    listed = capsys.readouterr().out
    assert all(f"\n    {declared.words.split()[0]} " in listed for declared in COMMANDS)
    assert [declared.words for declared in COMMANDS if len(declared.about) < 10] == []
    assert [
        f"{declared.words} {option.name}"
        for declared in COMMANDS
        for option in declared.arguments
        if not option.settings["help"]
    ] == []


def test_the_documentation_names_every_command_every_option_and_every_suite(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("cli.md", "corpus.md"))
    words = {word for declared in COMMANDS for word in declared.words.split()}
    options = {option.name for declared in COMMANDS for option in declared.arguments if option.name.startswith("--")}
    assert len(words) > 20 and len(options) > 50
    assert [name for name in sorted({*words, *SUITES}) if not re.search(rf"`[^`\n]*\b{name}\b", text)] == []
    assert [name for name in sorted(options) if not re.search(rf"`[^`\n]*{name}\b", text)] == []


def test_an_option_of_a_setting_has_its_type_its_default_and_its_comment() -> None:
    option = setting(Limits(max_texts=7), "max_texts")
    assert (option.name, option.settings["type"], option.settings["help"]) == (
        "--max-texts",
        int,
        "in one request (default: 7)",
    )
    assert setting(PRESETS["corpus"], "annotate.annotator").settings["choices"] == ["adapters", "icl", "none"]
    assert setting(PRESETS["default"], "allow_short").settings["action"] == "store_const"
