"""What a store holds of a job that two machines did, one of them cut off from the others."""

from pathlib import Path
from typing import Any

import msgspec

from fourshot.training.jobs.jobs import do_job, finished
from fourshot.training.lora.examples import TrainingResult
from fourshot.training.lora.settings import LoraSettings
from tests.training.jobs.fake_trainer import Behaviour, FakeTrainer, jobs


class Overtaken(FakeTrainer):
    """Another machine does the same job, to other bytes, while this one trains."""

    def train(self, *arguments: Any, **more: Any) -> TrainingResult:
        (folder := more["checkpoint"].parent).mkdir(exist_ok=True)
        do_job(FakeTrainer(str(self._model)), jobs(1)[0], folder.parent)  # type: ignore[arg-type]
        return super().train(*arguments, **{**more, "prefix": "late"})


def test_the_first_result_of_a_job_counts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "work.json").write_bytes(msgspec.json.encode(Behaviour()))
    (job,), store = jobs(1), tmp_path / "store"
    store.mkdir()
    result = do_job(Overtaken(str(tmp_path)), job, store)  # type: ignore[arg-type]
    assert result == finished(store, job) and result.name == "notes-000000000000"
    assert sorted(entry.name for entry in (store / job.key).iterdir()) == [result.name, "result.json"]


def test_a_store_of_an_earlier_version_is_known_again() -> None:
    """Before there was ``soft_max_steps`` the bound was ``max_steps``, which manifests of that time say."""
    bounded = msgspec.structs.replace(jobs(1)[0], settings=LoraSettings(max_steps=160))
    assert bounded.key == "c7aad0c36d321148"  # what commit c847c48f made of it
    others = [LoraSettings(), LoraSettings(max_steps=160, soft_max_steps=80), LoraSettings(soft_max_steps=0)]
    keys = {msgspec.structs.replace(bounded, settings=settings).key for settings in others}
    assert len(keys | {bounded.key}) == 4
