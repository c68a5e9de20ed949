"""Compare vLLM with transformers on tiny checkpoints of several families, and on adapters trained on them.

    python -m tests.training.lora.families_in_vllm FOLDER FAMILY...

Prints one line of JSON with an outcome for each family. It runs in a separate process, because vLLM's transformers
backend changes classes of transformers for the rest of a process. So all scores of transformers are computed before
vLLM is opened.
"""

import json
import shutil
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from fourshot.engine.calibration import normalise
from fourshot.engine.core import Adapter, Engine, EngineSettings
from fourshot.engine.errors import InputError
from fourshot.engine.opening import open_engine
from fourshot.engine.probe import check_probe
from fourshot.training.lora.settings import ALL, LoraSettings
from fourshot.training.lora.targets import check_trainable, target_modules
from fourshot.training.lora.train import LoraTrainer
from tests.engine.prompts import IN_CONTEXT, LABELS, LONG_LABELS, ZERO_SHOT
from tests.engine.tiny_models import tiny_checkpoint
from tests.training import notes

TWO_STEPS = LoraSettings(min_steps=2, max_steps=2, learning_rate=2e-2, warmup=0.0)
NOTES = [notes.prompt(text) for text in (*notes.WARM, *notes.COLD, *notes.UNSEEN)]
WORDS = (*notes.WORDS, *LABELS, "good", "bad")


def apart(scores: np.ndarray, others: np.ndarray) -> dict[str, float]:
    difference = np.abs(scores - others)
    return {"worst_nats": round(float(difference.max()), 4), "mean_nats": round(float(difference.mean()), 4)}


class Family:
    """A family's checkpoint with the scores of transformers, and an adapter if one can be trained and served."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder, self.checkpoint = folder, tiny_checkpoint(name, folder / "base")
        self.outcome: dict[str, Any] = {"family": name}
        self.adapter: Adapter | None = None
        reference = open_engine(EngineSettings(model=self.checkpoint, kind="transformers", max_model_len=512))
        self.expected = self.base_scores(reference)
        try:
            check_trainable(self.checkpoint, ALL)
        except InputError as error:
            self.outcome["refused"] = str(error).replace(self.checkpoint, "FOLDER")
        else:
            self.train(reference)
        reference.close()

    def base_scores(self, engine: Engine) -> np.ndarray:
        """Return log-probabilities as a flat array: short prompts and ones beyond a window, short and long labels."""
        parts = [
            engine.score(prompts, labels) for prompts in (ZERO_SHOT, IN_CONTEXT) for labels in (LABELS, LONG_LABELS)
        ]
        return np.concatenate([part.ravel() for part in parts])

    def train(self, reference: Engine) -> None:
        """Train an adapter. Record its scores, and how much they change without each of its projections."""
        bare = reference.score(NOTES, WORDS)
        # The two words between which a random base is least certain; on others, an adapter has hardly any effect.
        gaps = {pair: abs(np.subtract(*bare[:, pair].T).mean()) for pair in combinations(range(len(WORDS)), 2)}
        first, second = min(gaps, key=gaps.__getitem__)
        self.words, bare = (WORDS[first], WORDS[second]), bare[:, (first, second)]
        self.result = LoraTrainer(self.checkpoint).train(notes.examples(), self.words, TWO_STEPS, self.folder)
        self.adapter = self.result.adapter
        self.adapted = reference.score(NOTES, self.words, self.adapter)
        self.outcome["adapter_changes"] = {
            **apart(self.adapted, bare),
            "probability": round(float(np.abs(normalise(self.adapted) - normalise(bare)).max()), 4),
        }
        self.outcome["projections_change"] = {
            target: apart(reference.score(NOTES, self.words, self.without(target)), self.adapted)
            for target in target_modules(self.checkpoint, ALL)
        }

    def without(self, target: str) -> Adapter:
        """Return a copy of the adapter that has no effect in the layers named ``target``."""
        copy = self.folder / f"without-{target}"
        shutil.copytree(self.result.path, copy)
        weights = load_file(copy / "adapter_model.safetensors")
        left_out = {name: torch.zeros_like(weights[name]) for name in weights if f".{target}.lora_B" in name}
        assert left_out
        save_file(weights | left_out, copy / "adapter_model.safetensors", {"format": "pt"})
        return Adapter(name=copy.name, path=str(copy))

    def compare(self) -> dict[str, Any]:
        """Open the checkpoint in vLLM. Return the outcome, with the distances of its scores from those expected."""
        settings = EngineSettings(
            model=self.checkpoint,
            max_model_len=512,
            max_loras=1 if self.adapter else 0,
            kv_cache_bytes=32 << 20,
            max_num_seqs=16,
            compile=False,
        )
        vllm: Any = open_engine(settings)
        served_by = type(vllm._model.model_executor.driver_worker.worker.model_runner.model).__name__
        self.outcome |= {"vllm_class": served_by, "base": apart(self.base_scores(vllm), self.expected)}
        if self.adapter:
            assert self.result.probe
            self.outcome["adapter"] = apart(vllm.score(NOTES, self.words, self.adapter), self.adapted)
            self.outcome["probe"] = check_probe(vllm, self.adapter, self.result.probe).difference
        vllm.close()
        return self.outcome


def main(folder: str, *names: str) -> None:
    families = [Family(name, Path(folder) / name) for name in names]
    print(json.dumps([family.compare() for family in families]))


if __name__ == "__main__":
    main(*sys.argv[1:])
