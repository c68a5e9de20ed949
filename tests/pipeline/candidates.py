"""Makes candidates as if a model had generated them."""

from fourshot.pipeline.synthesis.types import Candidate


def candidate(number: int, text: str, label: str, round_number: int = 0) -> Candidate:
    return Candidate(
        id=f"r{round_number:02d}-{number:06d}",
        text=text,
        label=label,
        round=round_number,
        prompt_hash="p",
        shots=(0,),
        num_tokens=4,
        cumulative_logprob=-9.0,
        finish_reason="stop",
    )
