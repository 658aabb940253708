"""The round engine under any order of events: lost, doubled, late and reordered messages, crashes, liars, time.

The machine plays the manager's shell (what is on disk), the network and the nodes. Its laws: an update is counted
once or not at all, what was accepted stays, grants keep the limit, and a round always ends.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dl_mqtt_clients.aggregation.rounds import Abandon, Accepted, Close, Grant, Receipt, Refuse, Verify, Wait
from round_helpers import new_round, offer, plan, sha

NODES = ("n0", "n1", "n2", "n3", "n4")
LIAR = "liar"  # its updates are whole, and wrong
DEADLINE_S, STALL_S = 100.0, 5.0

which_node = st.sampled_from((*NODES, LIAR))
place = st.integers(0, 10**6)


class RoundMachine(RuleBasedStateMachine):
    @initialize(
        limit=st.integers(1, 12),
        wanted=st.integers(1, 5),
        quorum=st.integers(0, 5),
        inline_bytes=st.sampled_from([0, 200, 10_000]),
        chunks=st.lists(st.integers(1, 12), min_size=6, max_size=6),
        together=st.integers(1, 4),
    )
    def begin(self, limit, wanted, quorum, inline_bytes, chunks, together):
        self.plan = plan(target_updates=wanted, min_updates=quorum, inline_bytes=inline_bytes)
        self.limit = limit
        self.together = together  # right updates that are stored with one fsync
        self.verified: list[str] = []
        self.chunks = dict(zip((*NODES, LIAR), chunks, strict=True))
        self.now = 0.0
        self.disk: list[Accepted] = []
        self.receipts: set[str] = set()
        self.network: list[tuple] = []
        self.end: Close | Abandon | None = None
        self.open()

    def open(self):
        """As the manager does at its start: the disk is the truth."""
        self.verified.clear()
        self.engine = new_round(
            deadline=self.now + DEADLINE_S, limit=self.limit, stall_s=STALL_S, plan_=self.plan, accepted=self.disk
        )

    # ---- the manager's shell ----

    def carry_out(self, decisions, *, crash_after_storing=False):
        if any(isinstance(d, Grant) for d in decisions):
            assert self.engine.in_flight <= self.limit
        for decision in decisions:
            assert self.end is None or isinstance(decision, Receipt | Refuse)
            match decision:
                case Verify(node=node) if node == LIAR:
                    self.carry_out(self.engine.rejected(node, "holds NaN"))
                case Verify(node=node):
                    self.store(node, crash=crash_after_storing)
                case Receipt(node=node, sha256=hash_):
                    assert hash_ in {a.sha256 for a in self.disk if a.node == node}
                case Refuse(node=node, sha256=hash_):
                    assert hash_ not in {a.sha256 for a in self.disk if a.node == node}
                case Close() | Abandon():
                    self.end = decision
            if isinstance(decision, Grant | Wait | Receipt | Refuse):
                self.network.append(("to", decision.node, decision))

    def store(self, node, *, crash):
        self.verified.append(node)
        if len(self.verified) >= self.together or len(self.disk) + len(self.verified) >= self.engine.target:
            self.commit(crash=crash)

    def commit(self, *, crash=False):
        hashes = [self.engine._uploads[node].offer.sha256 for node in self.verified]
        self.disk += [Accepted(node, hash_, 10, 0.5) for node, hash_ in zip(self.verified, hashes, strict=True)]
        if crash:
            self.open()
            return
        verified, self.verified = self.verified, []
        self.carry_out(self.engine.stored(*verified, now=self.now))

    # ---- nodes and network ----

    @rule(node=which_node, inline=st.booleans(), second=st.booleans())
    def offers(self, node, inline, second):
        """Once more, or a second update of the same round."""
        an_offer = offer(node, chunks=self.chunks[node], inline=inline)
        if second:
            an_offer = offer(node, chunks=2, sha256=sha(f"{node} second"))
        self.network.append(("offer", node, an_offer))
        if inline:
            self.network += [("chunk", node, an_offer.sha256, k) for k in range(self.chunks[node])]

    @rule(node=which_node, wrong=st.sampled_from([{"round": 4}, {"attempt": 1}, {"base": "c" * 64}, {"bytes": 1}]))
    def offers_something_wrong(self, node, wrong):
        self.network.append(("offer", node, offer(node, **wrong)))

    @rule(node=which_node, index=st.integers(0, 20))
    def sends_a_chunk_nobody_asked_for(self, node, index):
        self.network.append(("chunk", node, sha(node), index))

    @precondition(lambda self: self.network)
    @rule(at=place, doubled=st.booleans(), crash=st.booleans())
    def a_message_arrives(self, at, doubled, crash):
        message = self.network[at % len(self.network)]
        if not doubled:
            self.network.remove(message)
        self.deliver(message, crash_after_storing=crash)

    @precondition(lambda self: self.network)
    @rule(count=st.integers(1, 30))
    def messages_arrive_in_order(self, count):
        for _ in range(min(count, len(self.network))):
            self.deliver(self.network.pop(0))

    @precondition(lambda self: self.network)
    @rule(at=place)
    def a_message_is_lost(self, at):
        del self.network[at % len(self.network)]

    def deliver(self, message, *, crash_after_storing=False):
        if message[1] in self.verified:
            self.commit()
        match message:
            case ("offer", node, an_offer):
                self.carry_out(self.engine.offer(node, an_offer, now=self.now))
            case ("chunk", node, hash_, index):
                decisions = self.engine.chunk(node, hash_, index, now=self.now)
                self.carry_out(decisions, crash_after_storing=crash_after_storing and self.end is None)
            case ("to", node, Grant(sha256=hash_, chunks=chunks)):
                self.network += [("chunk", node, hash_, k) for k in chunks]
            case ("to", node, Receipt()):
                self.receipts.add(node)

    @rule(seconds=st.sampled_from([0.1, 1.0, STALL_S, 30.0, DEADLINE_S]))
    def time_passes(self, seconds):
        self.now += seconds
        self.commit()
        self.carry_out(self.engine.tick(now=self.now))
        assert self.engine.closed or self.engine.next_tick(now=self.now) > 0

    @precondition(lambda self: self.end is None)
    @rule()
    def the_manager_is_killed_and_started_again(self):
        self.open()
        self.carry_out(self.engine.tick(now=self.now))

    # ---- laws ----

    @invariant()
    def nobody_is_counted_twice_and_what_was_accepted_stays(self):
        if not hasattr(self, "engine"):
            return
        assert len({a.node for a in self.disk}) == len(self.disk)
        assert list(self.engine.accepted.values()) == self.disk
        assert self.receipts <= {a.node for a in self.disk}
        assert LIAR not in self.engine.accepted

    @invariant()
    def chunks_in_flight_are_those_granted(self):
        if hasattr(self, "engine"):
            assert self.engine.in_flight == sum(len(u.granted) for u in self.engine._uploads.values())

    @invariant()
    def a_round_ends_for_a_reason(self):
        if not hasattr(self, "engine"):
            return
        assert self.engine.closed == (self.end is not None)
        enough = len(self.disk) >= max(self.plan.min_updates, 1)
        if self.end is not None:
            assert isinstance(self.end, Close) == enough
            assert self.engine.in_flight == 0
            assert self.now >= self.engine.deadline or len(self.disk) >= self.engine.target

    def teardown(self):
        """From here on the network is fair: then a target of persistent nodes finishes long before the deadline."""
        if not hasattr(self, "engine"):
            return
        self.network.clear()
        self.commit()
        had_ended, self.engine.deadline = self.end is not None, self.now + 1e6
        for _ in range(40):
            self.everybody_offers_and_nothing_is_lost()
        assert had_ended or isinstance(self.end, Close)
        self.nobody_is_counted_twice_and_what_was_accepted_stays()

    def everybody_offers_and_nothing_is_lost(self):
        for node in NODES:
            if node not in self.engine.accepted and self.end is None:
                self.network.append(("offer", node, offer(node, chunks=self.chunks[node])))
        while self.network:
            self.deliver(self.network.pop(0))
        self.now += STALL_S
        self.commit()
        self.carry_out(self.engine.tick(now=self.now))


TestRoundLaws = RoundMachine.TestCase
TestRoundLaws.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
