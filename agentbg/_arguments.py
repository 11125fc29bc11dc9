"""The parameters of a plain function as a schema for a model, and the model's arguments as values for the function."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import Parameter, Signature
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind
from pydantic_core import PydanticSerializationError, PydanticUseDefault

from .core.model import JSON
from .errors import ToolArgumentsInvalid, UsageError
from .output import enforceable

SHOWN = 80
"""How many characters of a wrong value are shown to the model that wrote it."""


class Arguments:
    """What a function takes. `schema` is in the strict form if there is one (`strict`); see `agentbg.output`.

    Parameters of the type `context` are not the model's business. A parameter with a default may be left out, or be
    null, where its type has no null: both mean the default. The strict form, in which nothing may be left out, offers
    the null, and names the default in the description.

    Raises what pydantic does where it has no schema for a type; TypeError or ValueError for one that is no JSON.
    """

    def __init__(self, signature: Signature, told: Mapping[str, str], context: type) -> None:
        self._signature = signature
        self._contexts: list[str] = []
        self._parameters: dict[str, Parameter] = {}  # by field: a model's field cannot have every name
        self._rest: str | None = None
        fields: dict[str, Any] = {}
        for number, parameter in enumerate(signature.parameters.values()):
            if _is_a(parameter.annotation, context):
                self._contexts.append(parameter.name)
            elif parameter.kind is Parameter.VAR_KEYWORD:
                self._rest = parameter.name
                type_: Any = parameter.annotation
                fields["__pydantic_extra__"] = (dict[str, type_], ...)
            else:
                self._parameters[f"p{number}"] = parameter
                fields[f"p{number}"] = _field(parameter, told.get(parameter.name))

        config = ConfigDict(extra="forbid" if self._rest is None else "allow")
        self._model: type[BaseModel] = create_model("arguments", __config__=config, **fields)
        schema = self._model.model_json_schema(schema_generator=_Generate)
        del schema["title"]
        strict = enforceable(_with_nulls(schema))
        self.strict = strict is not None
        self.schema: JSON = strict or schema
        json.dumps(self.schema, allow_nan=False)  # what `json_schema_extra` brings may be anything

    def bind(self, arguments: str, context: object) -> inspect.BoundArguments:
        """The values for a call of the function, read as JSON. Nothing at all is an empty object, as some models write.

        Raises ToolArgumentsInvalid.
        """
        try:
            model = self._model.model_validate_json(arguments.strip() or "{}")
        except ValidationError as error:
            raise _invalid(error) from error

        rest: Mapping[str, Any] = model.model_extra or {}
        if clashes := [name for name in rest if name in self._signature.parameters and name != self._rest]:
            raise _refused([f"{name}: Extra inputs are not permitted" for name in clashes])

        bound = self._signature.bind_partial()
        for field, parameter in self._parameters.items():
            if field in model.model_fields_set or not _has_default(parameter):
                bound.arguments[parameter.name] = model.__dict__[field]

        bound.arguments.update(dict.fromkeys(self._contexts, context))
        if self._rest is not None:
            bound.arguments[self._rest] = rest

        bound.apply_defaults()  # and puts them into the order of the parameters
        return bound


def signature_of(function: Callable[..., Any], context: type) -> Signature:
    """A function's signature with types as annotations.

    Names are looked for where the function is made: in its module, and in the functions around it while they run.
    Raises UsageError for a parameter without a type, or with one that cannot be found.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError, NameError) as error:
        raise UsageError(f"{name_of(function)} has no signature that can be read: {error}.") from error

    names = {context.__name__: context, **_names_around(function)}
    parameters = [
        parameter.replace(annotation=_type_of(parameter, names, name_of(function)))
        for parameter in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters)


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function behind partials, bound methods, callable objects and decorators: the one that somebody wrote."""
    while True:
        if isinstance(function, partial):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = cast("Any", function).__wrapped__
        elif inspect.isroutine(function):
            return function
        else:
            function = type(function).__call__


def name_of(function: Callable[..., Any]) -> str:
    """A function's own name; that of its class for a callable object."""
    while isinstance(function, partial):
        function = function.func

    return getattr(function, "__name__", type(function).__name__)


class _Generate(GenerateJsonSchema):
    def emit_warning(self, kind: JsonSchemaWarningKind, detail: str) -> None:
        """A default that is no JSON is no reason for a warning: the model can leave it out all the same."""

    def encode_default(self, dft: Any) -> Any:
        """A default as JSON; NaN and half characters are none."""
        encoded = super().encode_default(dft)
        try:
            json.dumps(encoded, allow_nan=False, ensure_ascii=False).encode()
        except ValueError as error:
            raise PydanticSerializationError(str(error)) from error

        return encoded

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 (pydantic calls it)
        """A title that repeats the name costs tokens and says nothing."""
        return False


def _field(parameter: Parameter, told: str | None) -> tuple[Any, Any]:
    """A parameter as a field of a model. What its annotation says of it is said first, then its docstring."""
    type_: Any = parameter.annotation
    if parameter.kind is Parameter.VAR_POSITIONAL:
        type_ = tuple[type_, ...]

    if isinstance(parameter.default, FieldInfo):
        type_ = Annotated[type_, parameter.default]

    info = FieldInfo.from_annotation(type_)
    settings: dict[str, Any] = {}
    if info.validation_alias is None:
        settings["alias"] = parameter.name

    if info.description is None:
        texts = (each for each in info.metadata if isinstance(each, str))
        settings["description"] = next(texts, told)

    if _has_default(parameter):
        settings["default"] = () if parameter.kind is Parameter.VAR_POSITIONAL else parameter.default

    if "default" in settings or not info.is_required():
        type_ = Annotated[type_, WrapValidator(_null_is_default)]

    return type_, Field(**settings)


def _has_default(parameter: Parameter) -> bool:
    """True when Python knows the default, and not (only) pydantic."""
    if parameter.kind is Parameter.VAR_POSITIONAL:
        return True

    return parameter.default is not Parameter.empty and not isinstance(parameter.default, FieldInfo)


def _null_is_default(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    if value is not None:
        return handler(value)

    try:
        return handler(None)
    except Exception:  # noqa: BLE001 (validators are any code, and may not have thought of a null)
        raise PydanticUseDefault from None


def _with_nulls(schema: Mapping[str, Any]) -> JSON:
    """The schema with a null to choose for each property that could be left out."""
    properties = dict(schema["properties"])
    for name in properties.keys() - set(schema.get("required", ())):
        inner = dict(properties[name])
        said = [inner.pop("description", "")]
        if inner.get("default") is not None:
            said.append(f"(default: {json.dumps(inner.pop('default'), ensure_ascii=False)})")

        choices = inner.get("anyOf", [inner])
        null = {"type": "null"}
        properties[name] = {"anyOf": [*choices, *([] if null in choices else [null])]}
        if description := " ".join(filter(None, said)):
            properties[name]["description"] = description

    return {**schema, "properties": properties}


def _invalid(error: ValidationError) -> ToolArgumentsInvalid:
    problems: list[str] = []
    for each in error.errors(include_url=False, include_context=False):
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in each["loc"]).lstrip(".")
        wrong = "" if each["type"] in ("missing", "json_invalid") else f" (not {each['input']!r:.{SHOWN}})"
        problems.append(f"{where or 'the arguments'}: {each['msg']}{wrong}")

    return _refused(problems)


def _refused(problems: Sequence[str]) -> ToolArgumentsInvalid:
    return ToolArgumentsInvalid("The arguments do not fit:\n" + "\n".join(problems), problems=problems)


def _is_a(annotation: Any, context: type) -> bool:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]

    choices = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return context in choices


def _names_around(function: Callable[..., Any]) -> dict[str, Any]:
    """What annotations may name. A frame whose constants hold a function's code is the one that makes the function."""
    function = plain(function)
    code = getattr(function, "__code__", None)
    scopes: list[Mapping[str, Any]] = []
    frame = inspect.currentframe() if code else None
    while frame is not None:
        if code in frame.f_code.co_consts:
            scopes.append(frame.f_locals)
            code = frame.f_code

        frame = frame.f_back

    names: dict[str, Any] = dict(getattr(function, "__globals__", {}))
    for scope in reversed(scopes):
        names.update(scope)

    return names


def _type_of(parameter: Parameter, names: dict[str, Any], function: str) -> Any:
    annotation = parameter.annotation
    if annotation is Parameter.empty:
        if parameter.kind is Parameter.VAR_KEYWORD:
            return Any

        raise UsageError(_UNTYPED_SELF if parameter.name == "self" else _UNTYPED.format(function, parameter.name))

    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    try:
        found = get_type_hints(holder, names, include_extras=True)["it"]
    except Exception as error:  # annotations are any code
        raise UsageError(_UNKNOWN.format(function, parameter.name, annotation, error)) from error

    if repr(get_origin(found)).endswith(".Unpack"):  # of typing, or of typing_extensions
        raise UsageError(
            f"{function} takes **{parameter.name} unpacked: name its parameters, or take the TypedDict as one of them."
        )

    return found


_UNTYPED = (
    "{0} says no type for its parameter {1!r}, so a model cannot be told what to send: write `{1}: str`, or what it is."
)
_UNTYPED_SELF = "A method is a tool together with its object: pass tools=[thing.method], or tool(thing.method)."
_UNKNOWN = (
    "{0} says that its parameter {1!r} is {2!r}, and that cannot be found: {3}. Import it for run time too (not under "
    "TYPE_CHECKING), and put @tool on a function that uses types of the function around it."
)
