"""What must hold after every case, whatever was injected. Each finding is one line of text.

Values are judged inside the ranks, element by element, by the oracle of their own report. Here it
is judged whether the reports say what the fault allows, who is blamed, and how long the calls took.
"""

from cases import Case, Plan, owner

SLACK = 1.0  # seconds beyond what the deadlines say, as in tests/python
AFTER = 0.5  # of a round after the fault
FETCHING = 0.5  # until a reducer that is known to be late is given up on, and nobody has its result
ROUNDS = 4  # the one that is hit, and those after it
CLOCKS = 0.02  # seconds between what happens in the engine and its time stamp in Python
BASE = 3  # x what such a round takes without faults on this machine, now


class Judge:
    def __init__(self, case: Case, plan: Plan, fault, base: float):
        self.case, self.plan, self.fault, self.base = case, plan, fault, base
        self.victims = set(plan.victims) if fault.absent else set()
        self.healthy = set(range(case.ranks)) - self.victims
        self.findings: list = []
        self.heard: dict = {}  # (rank, victim) -> when that rank heard of the victim's end

    def found(self, rank: int, what: str) -> None:
        self.findings.append(f"rank {rank}: {what}")

    def limit(self, number: int, victim: bool) -> float:
        """Seconds that the call may take, from the fault on; round 0 is the one that is hit."""
        base = BASE * self.base
        if not (self.fault.absent and self.fault.waits):
            return base + AFTER
        if victim:
            return self.fault.victim_limit() + SLACK + base
        if self.fault.hard:
            return base + (SLACK if number == 0 else AFTER)
        return base + self.fault.patience + self.fault.transfer + SLACK

    def together(self) -> float:
        """Seconds for all rounds."""
        out = ROUNDS * BASE * self.base + self.fault.patience + SLACK
        return out + (FETCHING if self.case.small else 0)

    def rounds(self, rank: int, rounds: list, struck: float, all_rounds: dict) -> None:
        victim = rank in self.victims
        for number, got in enumerate(rounds):
            seconds = got["end"] - max(got["begin"], struck)
            limit = self.limit(number, victim)
            if seconds > limit:
                self.found(rank, f"round +{number} took {seconds:.2f} s, {limit:.2f} allowed")
            if not got["ok"]:
                if not self.fault.expects_error(rank, number):
                    self.found(rank, f"round +{number}: {got['error']}: {got['text']}")
                continue
            if got["wrong"]:
                self.found(rank, f"round +{number}: {got['wrong']} wrong elements")
            if not victim:
                self.report(rank, number, got, all_rounds)
        if not victim and not self.fault.stays_slow:
            self.once(rank, rounds, struck)

    def once(self, rank: int, rounds: list, struck: float) -> None:
        """Somebody who stands still costs one patience, and its shard of one round."""
        took = [max(0.0, r["end"] - max(r["begin"], struck)) for r in rounds]
        if sum(took) > self.together():
            words = ", ".join(f"{seconds:.2f}" for seconds in took)
            self.found(rank, f"its rounds took {words} s, {self.together():.2f} allowed in all")
        local = [
            number
            for number, got in enumerate(rounds)
            if got["ok"] and any(c["source"] == "local" for c in got["report"]["chunks"])
        ]
        if len(local) > 1:
            self.found(rank, f"kept local values in rounds {local}, not in one only")

    def reasons(self, rank: int, blamed: int, when: float) -> tuple:
        """A result may come from a reducer that knows of a death before the news of it do: for
        that rank the dead one is only missing, and that is "slow"."""
        unheard = self.fault.hard and when < self.heard.get((rank, blamed), 0) + CLOCKS
        return self.fault.reasons + (("slow",) if unheard else ())

    def report(self, rank: int, number: int, got: dict, all_rounds: dict) -> None:
        report = got["report"]
        for blamed, reason in report["blamed"].items():
            allowed = self.reasons(rank, int(blamed), got["when"])
            if int(blamed) not in self.victims or reason not in allowed:
                self.found(rank, f"round +{number} blames rank {blamed} ({reason})")
        for chunk in report["chunks"]:
            self.chunk(rank, number, chunk, all_rounds)
        gone = self.fault.hard and number > 0
        if gone and set(map(int, report["blamed"])) != self.victims:
            self.found(rank, f"round +{number} does not say who is missing: {report['blamed']}")

    def chunk(self, rank: int, number: int, chunk: dict, all_rounds: dict) -> None:
        where = f"round +{number} [{chunk['start']}, {chunk['stop']}) {chunk['source']}"
        owners = {
            owner(self.case, self.plan.round + number, e)
            for e in (chunk["start"], chunk["stop"] - 1)
        }
        if chunk["source"] == "local":
            if self.fault.hard:
                self.found(rank, f"{where}: kept the local value")
            elif not owners <= self.victims and not self.fault.mutual:
                self.found(rank, f"{where}: local, but its reducer is well")
            return
        missing = set() if self.fault.mutual else self.healthy - set(chunk["contributors"])
        if chunk["source"] in ("redone", "fetched"):
            # Who got the chunk before its reducer died has no input for it any more.
            missing = {r for r in missing if not had(all_rounds[r], number, chunk)}
        if missing:
            self.found(rank, f"{where}: without {sorted(missing)}, which are well")
        if self.fault.hard and number > 0 and self.victims & set(chunk["contributors"]):
            self.found(rank, f"{where}: a rank that is gone contributed")

    def hears(self, rank: int, thinks: dict) -> None:
        for event in thinks["events"]:
            if event["kind"] == "peer_lost":
                self.heard[rank, event["rank"]] = event["when"]

    def aftermath(self, rank: int, thinks: dict) -> None:
        for event in thinks["events"]:
            if event["kind"] != "fallback" and event["rank"] not in self.victims:
                self.found(rank, f"event against a healthy rank: {event}")
        for entry in thinks["blacklist"]:
            if entry["rank"] not in self.victims:
                self.found(rank, f"blacklists a healthy rank: {entry}")
        for peer in thinks["peers"]:
            state = peer["state"]
            if peer["rank"] in self.healthy and state not in ("live", "self"):
                self.found(rank, f"takes rank {peer['rank']} for {state}")
            ended = "left" if self.fault.reasons == ("left",) else "dead"
            if peer["rank"] in self.victims and self.fault.hard and state != ended:
                self.found(rank, f"takes the victim for {state}")


def had(rounds: list, number: int, chunk: dict) -> bool:
    """Did that rank get these elements from the reducer itself, or from somebody who had them?"""
    got = rounds[number]
    if not got["ok"]:
        return False
    common = [
        c
        for c in got["report"]["chunks"]
        if c["start"] < chunk["stop"] and c["stop"] > chunk["start"]
    ]
    return bool(common) and all(c["source"] in ("reduced", "fetched") for c in common)
