"""What `import edge_bdl` promises."""

from __future__ import annotations

import subprocess
import sys

import pytest

import edge_bdl
from edge_bdl import errors


def test_the_public_names_are_sorted_and_all_there() -> None:
    assert edge_bdl.__all__ == sorted(set(edge_bdl.__all__))
    assert {name: getattr(edge_bdl, name).__name__ for name in edge_bdl.__all__} == {
        name: name for name in edge_bdl.__all__
    }
    assert set(edge_bdl.__all__) <= set(dir(edge_bdl))


def test_every_error_is_public() -> None:
    raised = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert raised <= set(edge_bdl.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'edge_bdl' has no attribute 'Runtimes'"):
        _ = edge_bdl.Runtimes


def test_the_policy_is_imported_without_engines_or_runtime() -> None:
    code = "import sys, edge_bdl; edge_bdl.Policy; print([name for name in sys.modules if name.startswith('edge_bdl')])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "edge_bdl.policy" in loaded
    assert not any(name in loaded for name in ("engines", "runtime", "bundle"))
