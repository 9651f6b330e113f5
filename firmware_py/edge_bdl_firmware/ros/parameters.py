"""Parameters of our nodes: declared from a table with descriptions and ranges, read into the structs of the core.

A struct checks itself when it is built, so what its fields mean together is said once, there: a change that the struct
would not take is refused with the struct's own words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult

from edge_bdl.errors import EdgeBdlError, InputError

Value = bool | int | float | str
_Struct = TypeVar("_Struct", bound=msgspec.Struct)


class Row(NamedTuple):
    """One parameter.

    Attributes:
        name: Its name.
        default: Its default; decides the type.
        description: For people.
        lowest: Of a number; None where there is no range.
        highest: Of a number.
        read_only: It cannot change while the node runs.
        fixed: It cannot be set at all: the node shows it to people.
    """

    name: str
    default: Value
    description: str
    lowest: float | None = None
    highest: float | None = None
    read_only: bool = False
    fixed: bool = False


def declare(node: Any, rows: Iterable[Row]) -> None:
    """Declare parameters on a node; values from the command line and from files are checked against their ranges.

    Raises:
        ParameterException: A value that was given is of another type or out of its range.
    """
    for row in rows:
        node.declare_parameter(row.name, row.default, _descriptor(row), ignore_override=row.fixed)


def values_of(node: Any, rows: Iterable[Row]) -> dict[str, Value]:
    """The present values by name."""
    return {row.name: node.get_parameter(row.name).value for row in rows}


def rows_of(struct: msgspec.Struct, rows: Iterable[Row]) -> tuple[Row, ...]:
    """The same rows with the values of a struct's fields, of the same names, as their defaults."""
    return tuple(row._replace(default=getattr(struct, row.name)) for row in rows)


def struct_of(kind: type[_Struct], values: Mapping[str, Value]) -> _Struct:
    """A struct from the values that are named as its fields are; fields without one keep their defaults.

    Raises:
        InputError: They make no sense together.
    """
    try:
        return kind(**{name: values[name] for name in kind.__struct_fields__ if name in values})
    except ValueError as error:
        raise InputError(str(error)) from error


def watch(
    node: Any, rows: Sequence[Row], check: Callable[[dict[str, Value]], object], apply: Callable[[], None]
) -> None:
    """Have changes of parameters checked before they are made, and applied after.

    Args:
        node: Whose.
        rows: The parameters that matter.
        check: Takes all values as they would be and raises `EdgeBdlError` where they make no sense together.
        apply: Called after a change of any of them.
    """
    names = {row.name for row in rows}

    def refuse_nonsense(parameters: Sequence[Any]) -> Any:
        changes = {parameter.name: parameter.value for parameter in parameters if parameter.name in names}
        if changes:
            try:
                check(values_of(node, rows) | changes)
            except EdgeBdlError as error:
                return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def changed(parameters: Sequence[Any]) -> None:
        if any(parameter.name in names for parameter in parameters):
            apply()

    node.add_on_set_parameters_callback(refuse_nonsense)
    node.add_post_set_parameters_callback(changed)


def _descriptor(row: Row) -> Any:
    descriptor = ParameterDescriptor(description=row.description, read_only=row.read_only or row.fixed)
    if row.lowest is not None and row.highest is not None:
        if isinstance(row.default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=row.lowest, to_value=row.highest, step=0.0)
            ]
        else:
            bounds = IntegerRange(from_value=int(row.lowest), to_value=int(row.highest), step=1)
            descriptor.integer_range = [bounds]
    return descriptor
