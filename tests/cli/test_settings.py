"""Options, settings files and --set all end in `RunSettings`, which has the only defaults there are."""

from pathlib import Path

import pytest

from fourshot.cli.declare import read_command
from fourshot.cli.main import main
from fourshot.cli.options import settings_of
from fourshot.cli.runs import choose_methods, read_seeds
from fourshot.engine.errors import InputError
from fourshot.pipeline.synthesis.settings import PRESETS, RunSettings


def settings(*words: str) -> RunSettings:
    return settings_of(read_command(["run", "sst2", *words], "0"))


def test_no_option_means_the_preset() -> None:
    assert settings() == PRESETS["default"]
    assert settings("--preset", "paper") == PRESETS["paper"]


def test_every_option_reaches_its_setting() -> None:
    chosen = settings(
        *("--shots", "8", "--seed", "3", "--per-class", "7", "--candidates-per-draw", "2", "--annotator", "icl"),
        *("--confidence", "0.5", "--loss", "full", "--allow-short", "--allow-fewer-shots", "--test-limit", "9"),
    )
    assert (chosen.k, chosen.seed, chosen.generate.per_class, chosen.generate.keep_likelier_of) == (8, 3, 7, 2)
    assert (chosen.annotate.annotator, chosen.annotate.confidence, chosen.train.loss) == ("icl", 0.5, "text")
    assert chosen.allow_short and chosen.allow_fewer_shots and chosen.test_limit == 9


def test_file_goes_over_preset_and_options_over_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("k = 6\n[train]\nr = 16\n[generate]\nper_class = 5\n")
    chosen = settings("--preset", "paper", "--settings", str(file), "--set", "train.r=32", "--per-class", "9")
    assert (chosen.k, chosen.train.r, chosen.generate.per_class) == (6, 32, 9)
    assert chosen.train.lora_dropout == PRESETS["paper"].train.lora_dropout


def test_set_takes_lists_and_bare_words() -> None:
    chosen = settings("--set", 'train.target_modules=["q_proj"]', "--set", "annotate.calibration=batch")
    assert chosen.train.target_modules == ("q_proj",)
    assert chosen.annotate.calibration == "batch"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "generate.perclass=3"], "Did you mean 'generate.per_class'?"),
        (["--set", "per_class=3"], "Did you mean 'generate.per_class'?"),
        (["--set", "trian.r=3"], "there is no setting 'trian'. Did you mean 'train'?"),
        (["--set", "TRAIN.r=3"], "there is no setting 'TRAIN'. Did you mean 'train'?"),
        (["--set", "train.R=3"], "there is no setting 'train.R'. Did you mean 'train.r'?"),
        (["--set", "train.lr=1e-4"], "Did you mean 'train.learning_rate'?"),
        (["--set", "lr=1e-4"], "Did you mean 'train.learning_rate'?"),
        (["--set", "train.maxsteps=3"], "Did you mean 'train.max_steps'?"),
        (["--set", "shots=3"], "there is no setting 'shots'. It is called 'k' in settings."),
        (["--set", "candidates-per-draw=2"], "It is called 'generate.keep_likelier_of' in settings."),
        (["--set", "quux=3"], "Settings are k, seed,"),
        (["--set", "train.rank=16"], "there is no setting 'train.rank'. It is called 'train.r' now."),
        (["--set", "sampling.seed=1"], "It never had an effect; texts are seeded by 'seed'."),
        (["--set", "train.r"], "expected KEY=VALUE"),
        (["--set", "generate.keep_likelier_of=3"], "Invalid enum value 3. Allowed are 1, 2."),
        (["--set", "train.decay=True"], "Expected `bool`, got `str`. Allowed are true and false."),
        (
            ["--set", "train.learning_rate=.001"],
            "Expected `float`, got `str`. Allowed are numbers such as 0.5 or 1e-4.",
        ),
        (["--set", "k=4\nseed=5"], "Expected `int`, got `str`"),
        (["--set", "train.target_modules=q_proj"], """Allowed are all, and a list of names: '["q_proj", "v_proj"]'."""),
        (["--set", "annotate.wordings=bare"], """Allowed are task, bare, answer. A list is written '["task"]'."""),
        (["--test-limit", "-5"], "--test-limit -5: test_limit must be at least 0, got -5."),
        (["--set", "max_text_words=0"], "max_text_words must be at least 1, got 0."),
        (["--set", "shot_weight=0"], "shot_weight must be above 0, got 0.0."),
        (["--seed", "-1"], "seed must be at least 0, got -1."),
        (["--seed", "99999999999999999999"], "seed must be at most 9223372036854775807"),
        (["--set", "filter.max_length_factor=inf"], "filter.max_length_factor must be a finite number, got inf."),
        (["--set", 'sampling.bias=[["oak", nan]]'], "sampling.bias must be a finite number, got nan."),
        (["--set", "train.r=lots"], "--set train.r=lots: Expected `int`, got `str`"),
        (["--set", "train=3"], "--set train=3: Expected `object`, got `int`"),
        (
            ["--set", "wording=short"],
            "--set wording=short: Invalid enum value 'short'. Allowed are task, bare, answer.",
        ),
        (["--set", 'annotate.wordings=["task", "short"]'], "Allowed are task, bare, answer."),
        (["--set", "generate.max_tokens=-1"], "generate.max_tokens must be at least 0, got -1."),
        (["--set", "annotate.fold_epochs=nan"], "annotate.fold_epochs must be a finite number, got nan."),
        (["--set", "annotate.fold_weight=inf"], "fold_weight above 0"),
        (["--set", "train.weight_decay=-1"], "weight_decay must be a number of at least 0, got -1"),
        (["--confidence", "1.5"], "confidence must be from 0 to 1"),
        (["--settings", "nowhere.toml"], "nowhere.toml cannot be read"),
    ],
)
def test_a_wrong_setting_is_named_with_the_way_out(words: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        settings(*words)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("k = ", "is not valid TOML"),
        ("[train]\nlearning_rat = 0.1", "Did you mean 'train.learning_rate'?"),
        ("[train]\nepochs = 3", "A training's length is 'train.num_epochs', between"),
        ("[train]\nr = 8.5", "train.r: Expected `int`, got `float`"),
    ],
)
def test_a_wrong_settings_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(content)
    with pytest.raises(InputError) as error:
        settings("--settings", str(file))
    assert str(file) in str(error.value) and message in str(error.value)


@pytest.mark.parametrize(("text", "seeds"), [("3", [0, 1, 2]), ("4,7", [4, 7]), ("4,", [4])])
def test_seeds_are_a_count_or_a_list(text: str, seeds: list[int]) -> None:
    assert read_seeds(text) == seeds


@pytest.mark.parametrize("text", ["0", "", "a", "1,1", "-2", "1001", "1000000000000"])
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--seeds"):
        read_seeds(text)
    assert len(read_seeds("1000")) == 1000 and read_seeds("1001,") == [1001]


def test_methods_keep_their_order_and_unknown_ones_are_refused() -> None:
    methods = {"icl": "", "lora": "", "lora25": ""}
    assert choose_methods("lora, icl,lora", methods) == ["lora", "icl"]
    with pytest.raises(InputError, match=r"Did you mean lora\?"):
        choose_methods("loro", methods)
    with pytest.raises(InputError, match="no method named"):
        choose_methods(",", methods)


def test_a_key_with_a_dot_in_quotes_is_told_to_lose_them(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('"train.r" = 4\n')
    with pytest.raises(InputError, match=r"no setting 'train\.r'\. Write train\.r without quotes around it\."):
        settings("--settings", str(tmp_path / "mine.toml"))


def test_of_a_setting_that_is_given_twice_it_is_told_which_counts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["corpus", "--tasks", "support_tickets", "--model", "fake", "--per-class", "2", "--quiet", "--allow-short"]
    words += ["--out", str(tmp_path / "out"), "--annotator", "none", "--seed", "2"]
    settings = ("k=3", " k = 2", "seed=1", "annotate.annotator='none'", "allow_short=true", "sampling.top_p=1.0")
    assert main([*words, *(word for setting in settings for word in ("--set", setting))]) == 0
    told = [line for line in capfd.readouterr().err.splitlines() if "--set" in line]
    assert len(told) == 2
    assert "--set k is given twice, '3' and '2': the last counts." in told[0]
    assert "--set seed=1 is ignored: the setting's own option is 2." in told[1]


def test_a_second_column_of_texts_is_refused_where_one_is_read(capfd: pytest.CaptureFixture[str]) -> None:
    columns = ("--text-column", "Subject", "--text-column", "Description")
    for words in (("annotate", "desk", "--out", "o.csv"), ("distill", "desk"), ("run", "desk")):
        assert main((*words, "--unlabelled", "new.csv", *columns)) == 2
        error = capfd.readouterr().err
        assert "--text-column is given twice, 'Subject' and 'Description'. Name one" in error
