from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentbg.core.queue import PollQueue

ids = st.sampled_from("abcdefgh")
times = st.integers(0, 20).map(float)


class QueueMachine(RuleBasedStateMachine):
    """The queue against a list that is sorted each time."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = PollQueue()
        self.model: list[tuple[float, int, str]] = []
        self.count = 0

    def wanted(self) -> list[tuple[float, int, str]]:
        return sorted(self.model)

    @rule(run_id=ids, at=times)
    def set(self, run_id: str, at: float) -> None:
        self.discard(run_id)
        self.count += 1
        self.model.append((at, self.count, run_id))
        self.queue.set(run_id, at)

    @rule(run_id=ids)
    def discard(self, run_id: str) -> None:
        self.model = [entry for entry in self.model if entry[2] != run_id]
        self.queue.discard(run_id)

    @rule(now=times)
    def pop(self, now: float) -> None:
        due = [entry for entry in self.wanted() if entry[0] <= now]
        assert self.queue.pop_due(now) == (due[0][2] if due else None)
        self.model = [entry for entry in self.model if entry != (due[0] if due else None)]

    @rule(run_id=ids)
    def set_often(self, run_id: str) -> None:
        for at in range(150):
            self.set(run_id, float(at % 7))

    @invariant()
    def they_agree(self) -> None:
        assert len(self.queue) == len(self.model)
        assert self.queue.next_at() == (self.wanted()[0][0] if self.model else None)
        assert all((run_id in self.queue) == any(run_id == entry[2] for entry in self.model) for run_id in "abcdefgh")


QueueMachine.TestCase.settings = settings(stateful_step_count=30)
TestQueue = QueueMachine.TestCase


def test_times_that_were_replaced_do_not_pile_up() -> None:
    queue = PollQueue()
    for at in range(10_000):
        queue.set("a", float(at))
        queue.set("b", float(-at))

    assert len(queue._heap) < 200


def test_a_run_that_is_popped_is_gone_until_it_is_set_again() -> None:
    queue = PollQueue()
    queue.set("a", 1.0)
    assert [queue.pop_due(2.0), queue.pop_due(2.0)] == ["a", None]
    queue.set("a", 3.0)
    assert queue.next_at() == 3.0


def test_nothing_is_due_before_its_time() -> None:
    queue = PollQueue()
    queue.set("a", 1.0)
    assert queue.pop_due(0.999) is None
    assert queue.pop_due(1.0) == "a"


def test_runs_due_at_the_same_time_come_in_the_order_set() -> None:
    queue = PollQueue()
    for run_id in "cab":
        queue.set(run_id, 1.0)

    assert [queue.pop_due(1.0) for _ in range(3)] == ["c", "a", "b"]
