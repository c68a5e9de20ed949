"""The command answers at once: asking it what it can do costs no model library."""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT_S = 0.5


def test_help_answers_in_half_a_second() -> None:
    times_s = []
    for _ in range(3):  # the best of three: the limit is on the command, not on what else the machine does
        start = time.perf_counter()
        answer = subprocess.run(
            [sys.executable, "-m", "fourshot", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        times_s.append(time.perf_counter() - start)
        assert "usage: fourshot" in answer.stdout
    assert min(times_s) < LIMIT_S


def test_help_loads_no_model_library() -> None:
    code = (
        "import contextlib, io, sys\nfrom fourshot.cli import main as cli\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    cli.main(['--help'])\n"
        "print(*sorted({'torch', 'vllm', 'transformers', 'ray', 'peft', 'datasets'} & sys.modules.keys()))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
