import re
from pathlib import Path

import pytest

from agentbg.core.moves import Moves
from agentbg.core.states import TABLE, Action, Phase, Signal

ROWS = [(phase, signal, *row) for phase, signals in TABLE.items() for signal, row in signals.items()]
CORE = Path(__file__).parents[2] / "agentbg" / "core"


def reachable(start: Phase) -> set[Phase]:
    seen, todo = {start}, [start]
    while todo:
        for phase, _ in TABLE[todo.pop()].values():
            if phase not in seen:
                seen.add(phase)
                todo.append(phase)

    return seen


def test_every_phase_has_its_row() -> None:
    assert set(TABLE) == set(Phase)


def test_every_phase_can_be_reached() -> None:
    assert reachable(Phase.STARTING) == set(Phase)


def test_nothing_leads_out_of_done() -> None:
    assert TABLE[Phase.DONE] == {}


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_can_reach_done(phase: Phase) -> None:
    assert Phase.DONE in reachable(phase)


@pytest.mark.parametrize("phase", set(Phase) - {Phase.DONE})
def test_the_end_of_the_run_ends_every_phase(phase: Phase) -> None:
    assert TABLE[phase][Signal.FINISHED] == (Phase.DONE, Action.SETTLE)


def test_done_is_reached_by_the_end_of_the_run_only() -> None:
    assert {signal for _, signal, phase, _ in ROWS if phase is Phase.DONE} == {Signal.FINISHED}


def test_only_answers_lead_back_to_the_start() -> None:
    assert {
        signal for phase, signal, target, _ in ROWS if target is Phase.STARTING and phase is not Phase.STARTING
    } == {Signal.ANSWERED}


def test_every_action_is_implemented_and_used() -> None:
    assert set(Moves._ACTIONS) == set(Action) == {action for *_, action in ROWS}


def test_every_signal_is_sent_and_heard() -> None:
    source = "".join(
        (CORE / name).read_text(encoding="utf-8") for name in ("run.py", "endings.py", "dialogue.py", "contact.py")
    )
    sent = {Signal[name] for name in re.findall(r"Signal\.([A-Z]+)", source)}
    assert sent == set(Signal) == {signal for _, signal, *_ in ROWS}


@pytest.mark.parametrize("phase", [Phase.POLLING, Phase.ATTACHING, Phase.STREAMING])
def test_a_phase_that_waits_answers_its_wake_up(phase: Phase) -> None:
    assert TABLE[phase][Signal.DUE][1] is not Action.NOTHING
