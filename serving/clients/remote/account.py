"""Accounts of a remote teacher: the piece of work that its requests are charged to, and what they cost."""

import uuid
from pathlib import Path

from fourshot.engine.machine.files import replace_file
from fourshot.pipeline.remote_teacher import RemoteTeacher
from fourshot.pipeline.synthesis.evidence import KindEvidence
from fourshot.pipeline.work_folder import WORK_FILE
from fourshot.serving.clients.remote.endpoint import Endpoint
from fourshot.serving.clients.remote.settings import RemoteSettings


def work_of(log: Path) -> str:
    """Return the id of the piece of work that is charged. It is kept in the folder of ``log``."""
    file = log.with_name(WORK_FILE)
    if not file.exists():
        replace_file(file, uuid.uuid4().hex.encode())
    return file.read_text()


def account_of(
    endpoint: Endpoint,
    settings: RemoteSettings,
    request_kind: str,
    shots: int,
    outside: float | None = None,
    held_out: KindEvidence | None = None,
) -> RemoteTeacher:
    """Return what the endpoint's piece of work has used so far, and which part of it that work has paid for."""
    used, spent = endpoint.kept.used, endpoint.kept.spent
    return RemoteTeacher(
        endpoint=endpoint.url,
        model=endpoint.model,
        asked=request_kind,
        shots=shots,
        requests=used.requests,
        paid_requests=spent.requests,
        prompt_tokens=used.prompt_tokens,
        output_tokens=used.output_tokens,
        cost=settings.cost(used.prompt_tokens, used.output_tokens),
        paid_cost=settings.cost(spent.prompt_tokens, spent.output_tokens),
        outside=outside,
        held_out=held_out,
    )
