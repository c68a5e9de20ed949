"""Who pays a remote teacher, and what that came to."""

import uuid
from pathlib import Path

from fourshot.engine.machine.files import replace_file
from fourshot.pipeline.remote_teacher import RemoteTeacher
from fourshot.pipeline.synthesis.evidence import KindEvidence
from fourshot.pipeline.work_folder import WORK_FILE
from fourshot.serving.clients.remote.endpoint import Endpoint
from fourshot.serving.clients.remote.settings import RemoteSettings


def work_of(log: Path) -> str:
    """Who pays: the same for as long as the folder is there that ``log`` lies in."""
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
    """What was used so far, and what of it was paid for."""
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
