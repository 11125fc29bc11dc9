"""What a docstring says of parameters, and that the rest of it is kept to the letter."""

from __future__ import annotations

import re
from inspect import cleandoc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbg._docstring import read_docstring

NAMES = {"city", "days", "limit", "rest", "more"}

GOOGLE = """Look it up.

    Longer text, which says: more.

    Args:
        city: The city. For example: Paris
            or Rome.

            A second paragraph.
        days (Callable[[int], str], optional): How many.
        *rest: Others.
        bound: Not a parameter any more.

    Note:
        Only in Europe.

    Keyword Args:
        limit:
            On the next line.
        **more (dict(str: int)): And more.

    Returns:
        The weather.
    """

NUMPY = """Look it up.

    Longer text, which says: more.

    Parameters
    ----------
    city : str, default: "Rome"
        The city. For example: Paris
        or Rome.

        A second paragraph.
    days, bound : int
        How many.
    *rest
        Others.

    Notes
    -----
    Only in Europe.

    Other Parameters
    ----------------
    limit : int
        On the next line.
    **more
        And more.

    Returns
    -------
    str
        The weather.
    """

SPHINX = r"""Look it up.

    Longer text, which says: more.

    :param city: The city. For example: Paris
        or Rome.

        A second paragraph.
    :type city: str
    :param int days: How many.
    :param \*rest: Others.

    .. note:: Only in Europe.

    :keyword limit:
        On the next line.
    :kwtype limit: int
    :keyword dict[str, int] \**more: And more.
    :returns: The weather.
    """

TOLD = {
    "city": "The city. For example: Paris\nor Rome.\n\nA second paragraph.",
    "days": "How many.",
    "rest": "Others.",
    "limit": "On the next line.",
    "more": "And more.",
}

KEPT = {
    GOOGLE: "Note:\n    Only in Europe.\n\nReturns:\n    The weather.",
    NUMPY: "Notes\n-----\nOnly in Europe.\n\nReturns\n-------\nstr\n    The weather.",
    SPHINX: ".. note:: Only in Europe.\n\n:returns: The weather.",
}


@pytest.mark.parametrize("docstring", KEPT, ids=["google", "numpy", "sphinx"])
def test_each_style_tells_of_its_parameters_and_all_else_is_the_description(docstring: str):
    text, told = read_docstring(docstring, NAMES)
    assert told == TOLD
    assert text == f"Look it up.\n\nLonger text, which says: more.\n\n{KEPT[docstring]}"


@pytest.mark.parametrize("docstring", KEPT, ids=["google", "numpy", "sphinx"])
def test_what_tells_of_no_parameter_there_is_stays(docstring: str):
    text, told = read_docstring(docstring, {"other"})
    assert (text, told) == (cleandoc(docstring), {})


def test_two_styles_may_meet():
    text, told = read_docstring("Args:\n  city: One.\nThen\n:param days: Two.\n  More.\nEnd", NAMES)
    assert (text, told) == ("Then\n\nEnd", {"city": "One.", "days": "Two.\nMore."})


def test_a_parameter_without_a_description_has_none():
    text, told = read_docstring("Parameters\n----------\ncity : str\ndays : int\n    Two.\nNot an entry.", NAMES)
    assert (text, told) == ("Not an entry.", {"days": "Two."})


def test_an_example_of_a_docstring_is_no_docstring():
    docstring = "Run.\n\nExample::\n\n    Args:\n        city: No parameter.\n\n    :param days: Nor this."
    assert read_docstring(docstring, NAMES) == (docstring, {})


@pytest.mark.parametrize("docstring", [None, "", "  \n "])
def test_nothing_says_nothing(docstring: str | None):
    assert read_docstring(docstring, NAMES) == ("", {})


lines = st.sampled_from(
    [
        "Args:",
        "Parameters",
        "----------",
        "city: x",
        "city",
        ":param city: x",
        "    city: x",
        "  y",
        "",
        "\t",
        "text.",
        "days :",
    ]
)


@given(st.lists(lines).map("\n".join) | st.text(), st.sets(st.sampled_from(["city", "days"])))
def test_every_word_is_in_the_text_or_in_what_it_takes_away(docstring: str, names: set[str]):
    text, told = read_docstring(docstring, names)
    assert told.keys() <= names
    words = re.findall(r"\w+", docstring)
    assert not set(re.findall(r"\w+", " ".join([text, *told.values()]))) - set(words)
    if not names:
        assert text == re.sub(r"\n{3,}", "\n\n", "\n".join(cleandoc(docstring).splitlines())).strip()
