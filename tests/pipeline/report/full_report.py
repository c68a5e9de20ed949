"""A report with all of its parts, and a text that would break the page if it were not escaped."""

from fourshot.pipeline.forecasts.forecast import Forecast, StageForecast
from fourshot.pipeline.report.candidates import Judged
from fourshot.pipeline.report.data import Certainty, Lineage, ReportData, UnsureText, method_row
from fourshot.pipeline.report.text import REASON_NAMES
from fourshot.pipeline.scores import Scores
from fourshot.pipeline.selective import Scope, coverage_curve
from fourshot.pipeline.synthesis.types import Reason, Verdict
from fourshot.pipeline.task import Example, Label, Task
from tests.pipeline.candidates import candidate as made

HOSTILE = '<script>alert(1)</script> | a "quoted" text\nLabel: *bad* & <img src=https://example.org/x.png>'
TASK = Task(
    name="reviews",
    instruction="Classify the review.",
    noun="review",
    labels=(Label(name="good"), Label(name="bad"), Label(name="mixed")),
)


def judged(number: int, label: str, reason: Reason, text: str = "a fine film") -> Judged:
    candidate = made(number, text, label, round_number=1)
    probabilities = {"good": 0.71, "bad": 0.27, "mixed": 0.02} if reason in ("kept", "label_disagrees") else {}
    kept = reason == "kept"
    return candidate, Verdict(candidate_id=candidate.id, kept=kept, reason=reason, probabilities=probabilities)


def scores(accuracy: float) -> Scores:
    return Scores(
        n=200,
        accuracy=accuracy,
        macro_f1=0.7,
        ece=0.04,
        ece_before=0.21,
        surest_80=0.925,
        interval=(0.6, 0.9),
        seconds=8,
        prompt_tokens=8400,
        cached_tokens=0,
    )


def full_data() -> ReportData:
    return ReportData(
        title=f"Reviews {HOSTILE}",
        task=TASK,
        num_test=200,
        unlabelled={"kept": 930, "near_duplicate": 50},
        labelled=20,
        reviewed={"relabelled": 3, "dropped": 5},
        long_texts=("test: 1 of 90 texts has more than 300 words.",),
        methods=(
            method_row("icl", "In context", [scores(0.571), scores(0.559)], real_examples=12),
            method_row("fourshot", "fourshot", [scores(0.842), scores(0.836)], real_examples=12, synthetic_examples=3),
        ),
        left_out={f"Zero-shot {HOSTILE}": f"no room {HOSTILE}"},
        certainty=Certainty(
            calibrated_on="12 shots that adapters were trained without",
            temperature=2.5,
            coverage=coverage_curve([0.9, 0.8, 0.7, 0.6], [1, 1, 1, 0], "test split"),
            scope=Scope(least_probability=0.4, false_rejects=0.05, num_texts=100, false_accepts=0.225, num_others=40),
        ),
        answers=(("good", "good"), ("good", "bad"), ("bad", "bad")),
        facts={"parameters": "22,713,216", HOSTILE: HOSTILE},
        unsure=(
            UnsureText(text=HOSTILE, label="good", probability=0.41, second="bad"),
            UnsureText(text="so so", label="bad", probability=0.44, second="mixed"),
        ),
        kept=tuple(judged(i, label, "kept", HOSTILE) for i, label in enumerate(("good", "bad", "mixed"))),
        rejected=tuple(
            judged(10 + i, "bad", reason, HOSTILE) for i, reason in enumerate(REASON_NAMES) if reason != "kept"
        ),
        real_texts={"good": ("a quiet and honest film", "an honest joy of a film"), "bad": ("a dull and long film",)},
        synthetic_texts={"good": ("a warm and honest film", HOSTILE), "bad": ("a long and dull mess",)},
        losses={"fourshot, seed 0": tuple((step, 2 / (step + 1)) for step in range(400))},
        stage_seconds={"generate": 93.4, "train": 3721.0},
        forecast=Forecast(
            seconds=4000.0,
            calls=640,
            tokens=53_824,
            memory_bytes=1_200_000_000,
            stages=(
                StageForecast(stage="generate", calls=640, tokens=50_000, steps=0, seconds=100.0, took_s=110.0),
                StageForecast(stage=HOSTILE, calls=0, tokens=3_824, steps=9, seconds=3900.0, took_s=None),
            ),
        ).with_actual_times({HOSTILE: 4890.0}),
        settings={"filter": {"bound": 0.8, "text": HOSTILE}},
        versions={"vllm": "0.32.0"},
        lineage=Lineage(
            base_model="SmolLM2",
            hashes={"adapter": "sha256:ab12"},
            shots=(Example(text=HOSTILE, label="good"),),
            prompts={"generation": f"Text: {HOSTILE}\n```\nText:"},
        ),
        try_it='fourshot predict runs/reviews "a <fine> film"',
    )
