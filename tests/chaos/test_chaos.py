"""A part of the chaos matrix for every run of the tests: each fault that is handled, each phase,
each size and each number of ranks at least once. The whole matrix: `make chaos`."""

import cases
import network
import pytest
import runner
import table

SMALL, MIDDLE, LARGE = cases.SIZES

# (fault, phase, size, ranks)
CHOSEN = [
    ("SIGKILL", "before", LARGE, 2),
    ("SIGKILL", "contributing", MIDDLE, 4),
    ("SIGKILL", "reducing", MIDDLE, 8),
    ("SIGKILL", "returning", SMALL, 4),
    ("exit", "reducing", SMALL, 8),
    ("clean leave", "returning", MIDDLE, 4),
    ("SIGSTOP for ever", "contributing", MIDDLE, 4),
    ("SIGSTOP 1 s", "reducing", MIDDLE, 4),
    ("compute straggler", "before", SMALL, 4),
    ("rank 0 killed", "reducing", MIDDLE, 4),
    ("two at once", "contributing", MIDDLE, 4),
    ("wrong numel", "before", MIDDLE, 4),
    ("wrong dtype", "before", SMALL, 2),
    ("wrong fingerprint", "before", MIDDLE, 4),
    ("NaN", "before", MIDDLE, 4),
    ("corrupted payload", "contributing", MIDDLE, 4),
    ("corrupted over TCP", "returning", MIDDLE, 4),
    ("corrupted for good", "contributing", SMALL, 2),
    ("corrupted for good", "returning", MIDDLE, 4),
    ("restart and rejoin", "reducing", MIDDLE, 4),
    ("garbage on the port", "contributing", MIDDLE, 4),
    ("store killed", "before", MIDDLE, 4),
]
CHOSEN_NETWORK = [
    ("slow link", "before", MIDDLE, 4),
    ("stalled link", "before", MIDDLE, 4),
    ("link down and up", "contributing", SMALL, 4),
    ("one-way partition", "before", MIDDLE, 4),
    ("random packet drop", "before", MIDDLE, 4),
]


def judged(case: cases.Case, net=None) -> None:
    assert cases.not_a_case(case) is None
    outcome = runner.run(case, net)
    assert not outcome.findings, "\n".join(outcome.findings)
    assert outcome.evidence or not net


@pytest.fixture(scope="module")
def net():
    """None where there are none; `make chaos` says why, and so does the test."""
    if network.unavailable():
        yield None
        return
    made = network.Network(max(cases.RANKS))
    try:
        yield made
    finally:
        made.close()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", [cases.Case(*c) for c in CHOSEN], ids=str)
def test_process_fault(case):
    judged(case)


NETWORK_CASES = [] if network.unavailable() else [cases.Case(*c) for c in CHOSEN_NETWORK]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", NETWORK_CASES, ids=str)
def test_network_fault(case, net):
    judged(case, net)


def test_every_fault_is_in_this_part():
    chosen = {c[0] for c in CHOSEN + CHOSEN_NETWORK}
    assert chosen == set(cases.FAULTS)
    for axis, values in ((1, cases.PHASES), (2, cases.SIZES), (3, cases.RANKS)):
        assert {c[axis] for c in CHOSEN} == set(values)


def test_no_case_is_left_out_without_a_reason():
    cells = cases.all_cases()
    assert len(cells) == len(set(cells)) == len(cases.FAULTS) * 4 * 3 * 3
    for case in cells:
        reason = cases.not_a_case(case)
        assert reason is None or len(reason) > 10
        if reason is None and case.fault != "wrong fingerprint":
            plan = cases.plan(case)
            victim, phase = plan.victims[0], plan.phases[0]
            assert phase == case.phase and len(set(plan.victims)) == len(plan.victims)
            reduces = cases.owner(case, plan.round, 0) == victim
            if case.small and phase != "before":
                assert reduces == (phase != "contributing"), "it would never be in that phase"


def test_the_table_names_what_failed_and_what_is_no_case(tmp_path):
    base = {"fault": "SIGKILL", "phase": "before", "size": SMALL}
    result = {
        "cpus": 2,
        "seconds": 3,
        "cases": [
            base | {"ranks": 2, "result": "ok", "seconds": 0.5},
            base | {"ranks": 4, "result": "failed", "seconds": 1.0, "findings": ["rank 1: wrong"]},
            base | {"ranks": 8, "result": "n/a", "reason": "not here"},
        ],
    }
    assert "ok 0.5 · failed 1.0 · n/a" in table.text(result)
    assert "n/a: SIGKILL: not here" in table.text(result)
    page = tmp_path / "page.md"
    page.write_text(f"above\n{table.BEGIN}\nold\n{table.END}\nbelow\n")
    table.into_docs(page, result)
    text = page.read_text()
    assert text.startswith("above\n") and text.endswith("\nbelow\n") and "old" not in text
    assert "failed, SIGKILL, before, 4 KiB, 4 ranks: rank 1: wrong" in text
    page.write_text("no place")
    with pytest.raises(ValueError, match="no place"):
        table.into_docs(page, result)
