"""A task's splits, each read when it is first asked for, and once."""

from collections.abc import Sequence
from functools import cached_property

from fourshot.pipeline.tasks.tables import drop_overlap, limited, load_split
from fourshot.pipeline.tasks.types import Example, Task


class TaskData:
    """The splits of ``task``. Reading them raises InputError, see `load_split`."""

    def __init__(self, task: Task) -> None:
        self.task = task

    @cached_property
    def test(self) -> list[Example]:
        return load_split(self.task, "test").examples

    @cached_property
    def train(self) -> list[Example]:
        """The train split without texts that are in the test split too."""
        return drop_overlap(load_split(self.task, "train"), [example.text for example in self.test]).examples

    def measured(self, limit: int) -> Sequence[Example]:
        """The test texts to measure on; ``limit`` 0 means all."""
        return limited(self.test, limit or None)
