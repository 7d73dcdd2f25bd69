"""requirements.txt: what image and clusters install, by hash; it agrees with the other pins."""

import re
import tomllib
from importlib.metadata import distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.paths import ROOT

pytestmark = pytest.mark.unit

NOT_IN_DEVELOPMENT = re.compile(
    r"nvidia-.*|cuda-.*|triton"  # torch for GPUs
    r"|colorama|httpx2-jsfetch"  # other systems
    r"|hatchling|trove-classifiers|setuptools"  # building of packages
)
"""Packages that constraints.txt, which is of a Linux machine without a GPU, does not hold."""


@pytest.fixture(scope="module")
def locked():
    """The locked requirements by canonical name."""
    text = re.sub(r"^#.*\n", "", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE)
    entries = [entry.split(" \\\n    --hash=") for entry in re.split(r"\n(?=\S)", text.strip())]
    for requirement, *hashes in entries:
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each.strip()) for each in hashes)
    return {canonicalize_name(r.name): r for r in (Requirement(entry[0]) for entry in entries)}


def version_of(requirement):
    (pin,) = requirement.specifier
    assert pin.operator == "=="
    return pin.version


def read_project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_locked_versions_are_those_of_development(locked):
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    differ = {name: r for name, r in locked.items() if pins.get(name) != version_of(r)}
    assert [name for name in differ if not NOT_IN_DEVELOPMENT.fullmatch(name)] == []


def test_every_package_that_the_product_needs_is_locked_and_no_tool_of_development(locked):
    project = read_project()["project"]
    missing, seen = [], set()
    needed = [Requirement(each) for each in project["dependencies"]]
    while needed:
        requirement = needed.pop()
        name = canonicalize_name(requirement.name)
        if name not in locked or version_of(locked[name]) not in requirement.specifier:
            missing.append(str(requirement))
        key = name, *sorted(requirement.extras)
        if key in seen:
            continue
        seen.add(key)
        extras = [{"extra": extra} for extra in (*requirement.extras, "")]
        for text in distribution(name).requires or ():
            each = Requirement(text)
            if each.marker is None or any(each.marker.evaluate(extra) for extra in extras):
                needed.append(each)
    assert missing == []
    assert {"pytest", "moto", "ruff"} & locked.keys() == set()


def test_the_tool_that_builds_the_package_is_locked(locked):
    assert set(read_project()["build-system"]["requires"]) <= locked.keys()


def test_no_address_stands_in_the_lock():
    assert "://" not in (ROOT / "requirements.txt").read_text()


@pytest.mark.parametrize("name", ["Dockerfile", "cluster.yaml", "gcp.yaml", "local.yaml"])
def test_machines_install_by_hash(name):
    text = (ROOT / "cluster" / name).read_text()
    installs = re.findall(r"^(?!#).*pip install (.*)", text, re.MULTILINE)
    assert len(installs) == 2
    assert re.search(r"--require-hashes --requirement \S*requirements\.txt$", installs[0])
    assert "--no-deps --no-build-isolation" in installs[1]
