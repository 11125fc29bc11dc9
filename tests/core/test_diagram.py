import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from agentbg.core.states import TABLE, Phase

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("diagram", ROOT / "docs" / "diagram.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_document_shows_the_table_as_it_is(drawing: ModuleType) -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert drawing.written_into(text) == text, "run: python docs/diagram.py --write"


def test_the_diagram_has_every_row_of_the_table(drawing: ModuleType) -> None:
    arrows = [line.split() for line in drawing.diagram().splitlines() if "-->" in line]
    for phase, row in TABLE.items():
        for signal, (target, _) in row.items():
            assert any(arrow[0] == phase and arrow[2] == f"{target}:" and signal in arrow[3:] for arrow in arrows)

    assert ["[*]", "-->", Phase.STARTING] in arrows
    assert [Phase.DONE, "-->", "[*]"] in arrows


def test_a_document_without_markers_says_so(drawing: ModuleType) -> None:
    with pytest.raises(ValueError, match="lacks the lines"):
        drawing.written_into("# Title\n")
