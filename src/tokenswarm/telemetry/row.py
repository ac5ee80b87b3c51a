"""A spool row from names and values."""

from typing import Any

from tokenswarm.store.schema import Measurement

Pair = tuple[str, list[Any]]


def row(measurement: Measurement, time_ns: int, **values: Any) -> Pair:
    """`values` in the schema's order; a field not given is None, a tag not given KeyError.

    TypeError for a name that the measurement lacks.
    """
    tags = [values.pop(tag) for tag in measurement.tags]
    fields = [values.pop(field.name, None) for field in measurement.fields]
    if values:
        raise TypeError(f"{measurement.name} has no {', '.join(values)}")
    return measurement.name, [time_ns, *tags, *fields]
