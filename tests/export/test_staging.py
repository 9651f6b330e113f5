"""Staging: a folder that is gone afterwards, and a disk that refuses told in one sentence."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from edge_bdl.errors import BundleError
from edge_bdl_export.staging import staging


def test_the_folder_is_there_for_as_long_as_it_is_needed() -> None:
    with staging() as folder:
        (folder / "x").write_text("x")
    assert not folder.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_a_disk_that_refuses_is_one_sentence_with_its_reason_and_leaves_no_folder(number: int) -> None:
    message = r"cannot be put together in .*, and nothing was written; free"
    with pytest.raises(BundleError, match=message) as caught, staging() as folder:
        raise OSError(number, os.strerror(number))
    assert os.strerror(number) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not folder.exists()


def test_what_safetensors_cannot_write_is_told_alike() -> None:
    with pytest.raises(BundleError, match="cannot be put together in"), staging() as folder:
        save_file({"x": np.zeros(3, np.float32)}, folder / "absent" / "x.safetensors")


def test_other_errors_are_what_they_are() -> None:
    with pytest.raises(FileNotFoundError), staging() as folder:
        Path(folder / "absent").read_bytes()
