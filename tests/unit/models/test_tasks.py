"""Tasks by name, the user's own by module, and clear words for the rest."""

import dataclasses
import importlib
import sys

import pytest
import torch

from models.parameters import schema_of
from models.tasks import PACKAGED, Task, TaskError, correct_classes, load_task


@pytest.mark.parametrize(("name", "parameters"), [("watch", 3703), ("digits", 2410)])
def test_packaged_tasks_fit_their_data(name, parameters):
    task = load_task(name)
    data = task.data(None)
    inputs, labels = data.test()
    outputs = task.model()(torch.from_numpy(inputs))
    assert outputs.shape == (len(labels), data.classes)
    assert sum(tensor.size for tensor in schema_of(task.model(), task.segment)) == parameters


def test_accuracy_counts_the_largest_output():
    outputs = torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0]])
    assert correct_classes(outputs, torch.tensor([1, 1, 1])).tolist() == [True, False, True]


def test_a_users_own_task_is_found_by_module_and_attribute(tmp_path, monkeypatch):
    package = tmp_path / "own_package_of_a_user"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tasks.py").write_text(
        "from models.tasks import PACKAGED\nmine = PACKAGED['digits']\nother = 3\n"
    )
    (package / "broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    try:
        assert load_task("own_package_of_a_user.tasks:mine") is PACKAGED["digits"]
        with pytest.raises(TaskError, match="is a int, not a"):
            load_task("own_package_of_a_user.tasks:other")
        with pytest.raises(TaskError, match="AttributeError"):
            load_task("own_package_of_a_user.tasks:nothing")
        with pytest.raises(TaskError, match="ZeroDivisionError"):
            load_task("own_package_of_a_user.broken:mine")
        with pytest.raises(TaskError, match="ModuleNotFoundError"):
            load_task("own_package_of_a_user.absent:mine")
    finally:
        for module in [name for name in sys.modules if name.startswith("own_package_of_a_user")]:
            del sys.modules[module]


@pytest.mark.parametrize(
    "name", ["", "wach", "models.tasks", "models.tasks:", ":x", "a/b:c", "os:system()", "..x:y"]
)
def test_other_names_are_refused_before_anything_is_imported(name):
    with pytest.raises(
        TaskError, match=r"choose among \['digits', 'watch'\] or write package.module:attribute"
    ):
        load_task(name)


@pytest.mark.parametrize("changed", [{"batch": 0}, {"learning_rate": 0.0}, {"momentum": 1.0}])
def test_a_task_that_cannot_learn_is_refused(changed):
    assert isinstance(load_task("digits"), Task)
    with pytest.raises(TaskError, match="needs batch >= 1"):
        dataclasses.replace(load_task("digits"), **changed)
