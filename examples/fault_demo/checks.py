"""Every promise of the demo as a check on the logs."""

import dataclasses
import math

from fault_demo.history import History
from fault_demo.phases import caught_up

KILLED, FROZEN, WRONG, UNTOUCHED = 0, 1, 2, 3
SURVIVORS = (FROZEN, UNTOUCHED)
LOSS_TOLERANCE = 0.05
WARM_UP = 5  # first steps of a run, in which torch still imports and compiles things


@dataclasses.dataclass
class Check:
    good: bool
    promise: str
    evidence: str


def normal_step(history: History) -> float:
    """Seconds of the slowest step of a fault-free run after its warm-up, over all ranks."""
    return max(s["seconds"] for steps in history.steps for s in steps[WARM_UP:])


def faults_fired(h: History) -> Check:
    kill, stop, back = h.action("kill"), h.action("stop"), h.action("continue")
    proofs = {
        "rank 0 killed by SIGKILL": kill and h.ends[KILLED][1] == "killed by SIGKILL",
        "rank 1 seen stopped (T)": stop and stop.proof.endswith(" T"),
        "still stopped before SIGCONT": back and back.proof.endswith(" T"),
        "rank 2 built another width": h.action("width") and WRONG in h.errors,
    }
    missing = [name for name, proof in proofs.items() if not proof]
    text = "; ".join(proofs) if not missing else "not seen: " + "; ".join(missing)
    return Check(not missing, "all three faults took effect", text)


def survivors_finish(h: History) -> Check:
    text = ", ".join(
        f"rank {r}: {len(h.steps[r])} of {h.planned} steps, {h.ends[r][1]}" for r in SURVIVORS
    )
    return Check(all(h.finished(r) for r in SURVIVORS), "the survivors finish all steps", text)


def death_is_noticed(h: History) -> Check:
    kill = h.action("kill")
    seen = {
        e["me"]: (e["when"] - kill.when) * 1e3
        for e in h.events
        if kill and e["kind"] == "peer_lost" and (e["rank"], e["reason"]) == (KILLED, "dead")
    }
    good = set(seen) >= {FROZEN, WRONG, UNTOUCHED} and max(seen.values()) < 1000
    text = ", ".join(f"rank {r} after {ms:.0f} ms" for r, ms in sorted(seen.items())) or "by nobody"
    return Check(good, "the death of rank 0 is noticed by all others in < 1 s", text)


def frozen_returns(h: History) -> Check:
    back = h.action("continue")
    report = caught_up(h, FROZEN, UNTOUCHED)
    promise = "the frozen rank counts again after SIGCONT"
    if back is None or report is None:
        return Check(False, promise, "no complete round with it after the freeze")
    later = [r for r in h.rounds[UNTOUCHED] if r["seq"] > report["seq"]]
    counts = sum(all(FROZEN in c["contributors"] for c in r["chunks"]) for r in later)
    share = counts / max(1, len(later))
    text = f"{report['when'] - back.when:.1f} s later; then in {share:.1%} of {len(later)} rounds"
    return Check(share > 0.95, promise, text)


def frozen_is_right(h: History) -> Check:
    """Its values: results of the same rounds have the same contributors on both survivors."""
    report = caught_up(h, FROZEN, UNTOUCHED)
    losses = [h.final_loss(rank) for rank in SURVIVORS]
    promise = "the frozen rank gets right values again"
    if report is None or None in losses:
        return Check(False, promise, "it did not come back")
    mine = {r["seq"]: r["chunks"] for r in h.rounds[FROZEN] if r["seq"] > report["seq"]}
    other = {r["seq"]: r["chunks"] for r in h.rounds[UNTOUCHED] if r["seq"] in mine}
    same = sum(_averages(mine[seq]) == _averages(other[seq]) for seq in other)
    apart = abs(losses[0] - losses[1]) / losses[1]
    text = f"{same} of {len(other)} rounds with the same average on both survivors, "
    text += f"final losses {losses[0]:.3f} and {losses[1]:.3f}"
    return Check(bool(other) and same >= 0.95 * len(other) and apart < 0.02, promise, text)


def _averages(chunks: list) -> list:
    """Who is in which elements, neighbours merged, whatever way the bytes came."""
    merged: list = []
    for chunk in chunks:
        local = chunk["source"] == "local"
        if merged and merged[-1][1:] == [chunk["contributors"], local]:
            merged[-1][0] = chunk["stop"]
        else:
            merged.append([chunk["stop"], chunk["contributors"], local])
    return merged


def wrong_model_alone(h: History) -> Check:
    error = h.errors.get(WRONG, (0, "no error", ""))[1]
    listed = {
        e["me"]
        for e in h.events
        if e["kind"] == "blacklisted" and e["reason"] == "schema" and e["rank"] == WRONG
    }
    good = error == "SchemaMismatch" and set(h.errors) == {WRONG} and listed >= set(SURVIVORS)
    good = good and h.ends[WRONG][1] == "exit status 1"
    text = f"rank 2: {error}, {h.ends[WRONG][1]}; blacklisted by ranks {sorted(listed)}"
    return Check(good, "the wrong model alone gets SchemaMismatch, the others blacklist it", text)


def wrong_model_left_out(h: History) -> Check:
    """From the round on in which a survivor blacklisted it, nothing of it is in any result."""
    worst = 0
    rounds = 0
    for rank in SURVIVORS:
        first = min(
            (
                e["seq"]
                for e in h.events
                if e["me"] == rank and e["kind"] == "blacklisted" and e["rank"] == WRONG
            ),
            default=math.inf,
        )
        after = [r for r in h.rounds[rank] if r["seq"] >= first]
        rounds += len(after)
        worst += sum(any(WRONG in c["contributors"] for c in r["chunks"]) for r in after)
    text = f"in {worst} of {rounds} rounds of the survivors since then"
    return Check(rounds > 0 and worst == 0, "not one gradient of the wrong model counts", text)


def nobody_else_blamed(h: History) -> Check:
    """Each only for what was done to it, and not before."""
    kill, stop, width = h.action("kill"), h.action("stop"), h.action("width")
    allowed = {
        (KILLED, "dead"): kill,
        (FROZEN, "slow"): stop,
        (WRONG, "schema"): width,
        (WRONG, "left"): width,
        (WRONG, "dead"): width,
    }
    wrong = []
    for rank in (UNTOUCHED, FROZEN):
        for report in h.rounds[rank]:
            for who, why in report["blamed"].items():
                action = allowed.get((int(who), why))
                # The frozen rank may think that the others are late: it says itself that it doubts.
                if rank == FROZEN and report["self_suspect"]:
                    continue
                if action is None or report["when"] + 0.2 < action.when:
                    wrong.append(f"rank {rank} blames rank {who} ({why}) in seq {report['seq']}")
    for event in h.events:  # a rank that is called late need not be missing in any report
        if event["kind"] == "peer_slow" and event["rank"] != FROZEN and event["me"] != FROZEN:
            wrong.append(f"rank {event['me']} calls rank {event['rank']} late: {event['detail']}")
    text = wrong[0] + f" and {len(wrong) - 1} more" if wrong else "no other rank, no other reason"
    return Check(not wrong, "nobody is blamed for what was not done to it", text)


def steps_bounded(h: History, normal: float, patience: float) -> Check:
    """Steps of the survivors; not the frozen rank's step in which it slept."""
    stop, back = h.action("stop"), h.action("continue")
    worst, where = 0.0, "no steps"
    for rank in SURVIVORS:
        for step in h.steps[rank]:
            end = step["start"] + step["seconds"]
            slept = (
                rank == FROZEN and stop and back and step["start"] < back.when and end > stop.when
            )
            if not slept and step["seconds"] > worst:
                worst, where = step["seconds"], f"rank {rank} step {step['step']}"
    limit = patience + normal
    text = f"longest {worst:.2f} s ({where}), limit {patience:g} + {normal:.2f} s"
    promise = "no step of a survivor takes longer than patience plus one normal step"
    return Check(0 < worst <= limit, promise, text)


def loss_fell(h: History) -> Check:
    first = [s["loss"] for s in h.steps[UNTOUCHED][:1]]
    last = h.final_loss(UNTOUCHED)
    good = bool(first) and last is not None and last < 0.75 * first[0]
    text = (
        f"{first[0]:.2f} at the first step, {last:.3f} held-out at the end"
        if good
        else "it did not"
    )
    return Check(good, "the loss falls", text)


def loss_like_fault_free(h: History, reference: History) -> Check:
    promise = f"final held-out loss within {LOSS_TOLERANCE:.0%} of the fault-free run"
    base = reference.final_loss(UNTOUCHED)
    losses = [h.final_loss(rank) for rank in SURVIVORS]
    if base is None or None in losses:
        return Check(False, promise, "a run did not reach its last step")
    apart = max(losses, key=lambda loss: abs(loss - base)) / base - 1
    text = f"{losses[0]:.3f} and {losses[1]:.3f} against {base:.3f}: {apart:+.1%}"
    return Check(abs(apart) <= LOSS_TOLERANCE, promise, text)


def reference_is_clean(reference: History) -> Check:
    rounds = [r for reports in reference.rounds for r in reports]
    complete = sum(r["outcome"] == "complete" for r in rounds)
    good = reference.status == 0 and bool(rounds) and complete == len(rounds)
    good = good and all(reference.finished(rank) for rank in range(4))
    text = f"{complete} of {len(rounds)} rounds complete, launcher exit status {reference.status}"
    return Check(good, "the fault-free run is complete in every round", text)


def on_faulty_run(h: History) -> list:
    """What needs no fault-free run beside it."""
    return [
        faults_fired(h),
        survivors_finish(h),
        death_is_noticed(h),
        frozen_returns(h),
        frozen_is_right(h),
        wrong_model_alone(h),
        wrong_model_left_out(h),
        nobody_else_blamed(h),
        loss_fell(h),
    ]


def all_checks(h: History, reference: History, patience: float) -> list:
    out = [reference_is_clean(reference), *on_faulty_run(h)]
    if reference.status == 0:
        out.append(steps_bounded(h, normal_step(reference), patience))
    return [*out, loss_like_fault_free(h, reference)]
