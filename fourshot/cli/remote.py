"""Options of commands that can use a teacher behind an OpenAI-compatible address."""

from typing import Any

from fourshot.cli.declare import Options, argument, overrides, setting
from fourshot.engine.errors import InputError
from fourshot.pipeline.remote_teacher import RemoteTeacher
from fourshot.serving.clients.remote.settings import KEY_VARIABLES, RemoteSettings

DEFAULTS = RemoteSettings()
NAMES = ("teacher_api", "votes", "answer_tokens", "concurrency", "retries", "timeout_s")
KEYS = " or ".join(KEY_VARIABLES)
REMOTE_OPTIONS = tuple(
    option._replace(heading="remote teacher")
    for option in (
        argument(
            "--teacher", "URL", f"of an OpenAI-compatible endpoint, as http://host/v1; key: {KEYS} in the environment"
        ),
        argument("--teacher-model", "NAME", "the model to use there; its prompts contain the shots"),
        *(setting(DEFAULTS, name) for name in NAMES),
        argument("--max-requests", "N", "stop after this many over all calls; the same command continues", type=int),
        argument("--max-cost", "X", "stop before all calls cost more than X, in the unit of the prices", type=float),
        argument("--price-in", "X", "of a million prompt tokens", type=float),
        argument("--price-out", "X", "of a million output tokens", type=float),
    )
)


def teacher_of(options: Options) -> dict[str, Any]:
    """Return the options of a teacher for `fourshot.teaching`. Raises InputError for incomplete or conflicting ones."""
    remote_settings = overrides(options, RemoteSettings)
    if options.teacher and options.by:
        raise InputError("--teacher and --by both name the teacher. Give only one of them.")
    if options.teacher and not options.teacher_model:
        raise InputError(f"--teacher {options.teacher} may have several models. Name one with --teacher-model.")
    if options.teacher_model and not (options.teacher or options.by):
        raise InputError("--teacher-model needs the address of the model, such as --teacher http://host/v1. Give both.")
    if remote_settings and not options.teacher_model:
        given_options = ", ".join(f"--{name.replace('_', '-')}" for name in remote_settings)
        raise InputError(f"{given_options}: only for a teacher behind an address (--teacher URL --teacher-model NAME).")
    return {
        "by": options.teacher or options.by,
        "teacher_model": options.teacher_model,
        "remote": RemoteSettings(**remote_settings) if options.teacher_model else None,
    }


def teacher_line(teacher: RemoteTeacher) -> str:
    """Return two lines on how accurate a remote teacher was, and what that cost."""
    held_out, outside = teacher.held_out, teacher.outside
    accuracy = f", {held_out.accuracy:.0%} of {held_out.num_texts} shots correct" if held_out else ""
    off_labels = f", {outside:.1%} of its probability outside the labels" if outside is not None else ""
    cost = "" if teacher.paid_cost is None else f", cost {teacher.paid_cost:.4g}"
    old = teacher.requests - teacher.paid_requests
    reused = f"; {old:,} stored answers were reused" if old > 0 else ""
    return (
        f"{teacher.model} at {teacher.endpoint} ({teacher.asked}){accuracy}{off_labels}.\n"
        f"{teacher.paid_requests:,} requests{cost}{reused}; {teacher.prompt_tokens:,} prompt tokens and "
        f"{teacher.output_tokens:,} output tokens for all of them."
    )


def first_of(reason: str) -> str:
    """Return why the first of several texts has no answer, to be put behind their number; "" where it is unknown."""
    return f"; reason for the first: {reason.rstrip('.')}" if reason else ""
