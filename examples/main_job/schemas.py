"""JSON schemas for a small model: any value of a bounded schema is one of the schema's own, and soon at its end.

A small model that may go on goes on. Its texts, lists and numbers get an end here, where the schema gives them none. A
recursive type has no such bound: only the limit of an answer ends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

CHARACTERS = 60  # of a text, at most
ITEMS = 3  # of a list, at most
LARGEST = 1_000_000  # number, up and down
STEP = 0.01  # between two numbers: no endless fractions

Schema = Mapping[str, Any]

_SHAPED = {"enum", "const", "format", "pattern", "maxLength"}  # texts that have a length of their own
_LIMITS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_ONE = {"items", "additionalProperties", "not"}
_MANY = {"anyOf", "oneOf", "allOf", "prefixItems"}
_NAMED = {"properties", "$defs", "definitions"}


def bounded(schema: Any) -> Any:
    """The schema with an end to everything."""
    if not isinstance(schema, Mapping):
        return schema  # True or False, which are schemas, too

    inside = {key: _inside(key, value) for key, value in schema.items() if not _beyond(key, value)}
    return {**inside, **_bounds(inside)}


def _beyond(key: str, value: Any) -> bool:
    """Patterns that look around: the grammar engine has none, and would let go of the whole schema."""
    return key == "pattern" and "(?" in value


def _inside(key: str, value: Any) -> Any:
    if key in _ONE:
        return bounded(value)

    if key in _MANY:
        return [bounded(part) for part in value]

    return {name: bounded(part) for name, part in value.items()} if key in _NAMED else value


def _bounds(schema: Schema) -> Schema:
    """What a schema lacks to be bounded."""
    kinds = schema.get("type", ())
    bounds: dict[str, Any] = {}
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        bounds.update(_bounds_of(kind, schema))

    return bounds


def _bounds_of(kind: str, schema: Schema) -> Schema:
    match kind:
        case "string" if not _SHAPED & schema.keys():
            return {"maxLength": max(CHARACTERS, schema.get("minLength", 0))}
        case "array" if "maxItems" not in schema:
            return {"maxItems": max(ITEMS, schema.get("minItems", 0))}
        case "integer" if not _LIMITS & schema.keys():
            return {"minimum": -LARGEST, "maximum": LARGEST}
        case "number" if not _LIMITS & schema.keys():
            return {"minimum": -LARGEST, "maximum": LARGEST, "multipleOf": STEP}
        case "object" if "properties" in schema and "additionalProperties" not in schema:
            return {"additionalProperties": False}
        case _:
            return {}


def one_of(names: Iterable[str]) -> Schema:
    """The schema of a choice."""
    return {"type": "string", "enum": list(names)}
