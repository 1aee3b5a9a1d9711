"""Where the ranks of a host meet for Options.host_backend: a folder of this user alone."""

import os
import stat
import tempfile

import pytest
import torch.distributed as dist

from papilio import _host_backend


@pytest.fixture(autouse=True)
def _temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_the_folder_is_made_for_the_user_alone(tmp_path):
    path = _host_backend._meeting_folder()
    assert os.path.dirname(path) == str(tmp_path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    assert _host_backend._meeting_folder() == path


@pytest.mark.parametrize("how", ["open to others", "a link"])
def test_a_folder_that_others_can_reach_is_refused(tmp_path, how):
    path = tmp_path / f"papilio-{os.getuid()}"
    if how == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.mkdir()
        path.chmod(0o777)
    with pytest.raises(RuntimeError, match="remove it, or set TMPDIR"):
        _host_backend._meeting_folder()


def test_one_rank_meets_itself(tmp_path):
    settings = {"host_backend": "gloo", "patience": 5.0}
    backend = _host_backend.maker(settings)("gloo", "key", 0, 1)
    assert isinstance(backend, dist.ProcessGroupGloo) and backend.size() == 1
    assert _host_backend.maker(settings | {"host_backend": ""}) is None


def test_papilios_own_needs_kernels_where_there_are_gpus(monkeypatch):
    settings = {"host_backend": "papilio", "patience": 5.0}
    assert _host_backend.maker(settings) is None  # no GPU, nothing to be averaged there
    monkeypatch.setattr(_host_backend.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_host_backend._native, "cuda_kernels", lambda: "13.0")
    assert _host_backend.maker(settings) is None
    monkeypatch.setattr(_host_backend._native, "cuda_kernels", lambda: "")
    with pytest.raises(ValueError, match="CUDA kernels, which this build does not have"):
        _host_backend.maker(settings)
