"""The checks of tools/check_layout.py: the tree is clean, and each rule catches what it is for."""

import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("check_layout", ROOT / "tools" / "check_layout.py")
check_layout = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_layout)


def test_this_tree_is_clean():
    assert check_layout.findings() == []


@pytest.mark.parametrize(
    ("path", "line", "finding"),
    [
        ("csrc/core/a.hpp", "#include <thread>", "pure"),
        ("csrc/fault/a.cpp", "#include <sys/socket.h>", "pure"),
        ("csrc/fault/a.cpp", "#include <unordered_map>", "pure"),
        ("csrc/fault/a.cpp", "auto t = std::chrono::steady_clock::now();", "pure"),
        ("csrc/fault/a.cpp", "#include <ucp/api/ucp.h>", "must not see"),
        ("csrc/core/a.hpp", '#include "fault/machine.hpp"', "must not include"),
        ("csrc/fault/a.hpp", '#include "engine/engine.hpp"', "must not include"),
        ("csrc/engine/a.hpp", "#include <torch/version.h>", "must not see"),
        ("csrc/control/a.cpp", '#include "engine/engine.hpp"', "must not include"),
        ("csrc/process_group/a.cpp", '#include "fault/machine.hpp"', "must not include"),
        ("csrc/engine/a.cpp", '#include "cuda/kernels.hpp"', "must not include"),
        ("csrc/engine/a.cpp", "#include <cuda_runtime.h>", "must not see"),
        ("cuda/a.cu", '#include "engine/engine.hpp"', "must not include"),
        ("cuda/a.hpp", "#include <torch/version.h>", "must not see"),
        ("csrc/newroom/a.cpp", "int x;", "room table"),
        ("csrc/engine/a.cpp", "// TODO: later", "left over"),
        ("tests/python/test_a.py", "    time.sleep(1)", "in a test"),
        ("tests/python/test_a.py", "from time import monotonic, sleep", "in a test"),
        ("tests/engine/a.cpp", "  std::this_thread::sleep_for(1s);", "in a test"),
        ("tests/python/test_a.py", "@pytest.mark.xfail", "in a test"),
        ("tests/engine/a.cpp", "  GTEST_SKIP();", "in a test"),
        ("docs/a.md", "see /home/me/notes", "path of one machine"),
    ],
)
def test_rule_fires(tmp_path, path, line, finding):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(line + "\n")
    found = check_layout.findings(tmp_path, allowed={})
    assert len(found) == 1 and finding in found[0] and found[0].startswith(f"{path}:1:")


def test_long_file_is_found(tmp_path):
    (tmp_path / "csrc" / "core").mkdir(parents=True)
    (tmp_path / "csrc" / "core" / "a.cpp").write_text("int x;\n" * 501)
    assert "limit is 500" in check_layout.findings(tmp_path, allowed={})[0]


def test_dead_link_is_found(tmp_path):
    (tmp_path / "README.md").write_text("[a](docs/nowhere.md) [b](https://example.org)\n")
    assert check_layout.findings(tmp_path, allowed={}) == [
        "README.md:1: link leads nowhere: docs/nowhere.md"
    ]


def test_allowed_with_a_reason(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "a.py").write_text("time.sleep(1)\n")
    assert check_layout.findings(tmp_path, allowed={("tests/a.py", "time.sleep("): "why"}) == []
