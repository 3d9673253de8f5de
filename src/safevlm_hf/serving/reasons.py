"""Turn pydantic's errors into one that a client can act on: which fields, as it wrote them, and why."""

from itertools import islice

from pydantic_core import ErrorDetails

from .errors import BadRequest, shorten


MOST = 5  # mistakes that are told
AN_OBJECT = ("model_type", "model_attributes_type", "dict_type")  # whose own text names our classes
NO_CHARACTER = "half of a surrogate pair is no character"
NO_FIELD = ("union_tag_invalid", "union_tag_not_found")  # found at an object, and about one of its fields


def reasons_of(errors: list[ErrorDetails], sent) -> BadRequest:
    """
    Return one error for all mistakes, without what was sent.

    Args:
        errors: pydantic's, with their context.
        sent: the value that they were found in.
    """
    places: dict[tuple, list[ErrorDetails]] = {}
    for error in errors:
        places.setdefault(_place(error, sent), []).append(error)
    # A place around another one is left out: pydantic also reports that a list with a mistake inside is no text, which
    # nobody meant it to be.
    around = {place[:length] for place in places for length in range(len(place))}
    reasons = {}
    for place, found in places.items():
        if place not in around:
            # A value of one of several types gets an error for each. Where it has one of them, only the errors of that
            # type help the client.
            telling = [error for error in found if not error["type"].endswith("_type")] or found
            joined = " or ".join(dict.fromkeys(map(_reason, telling)))
            reasons[place] = joined.replace(" or Input should be ", " or ")
    said = [f"{_name(place) or 'body'}: {reason}" for place, reason in islice(reasons.items(), MOST)]
    said += [f"and {len(reasons) - MOST} more"] * (len(reasons) > MOST)
    return BadRequest("; ".join(said), _name(next(iter(reasons))) or None)


def _place(error: ErrorDetails, sent) -> tuple:
    """Return the fields and numbers that lead to the mistake. Between them pydantic has the names of its types and
    checks, which lead nowhere in what was sent."""
    place, value, steps = [], sent, error["loc"]
    for step, following in zip(steps, (*steps[1:], None)):
        if isinstance(value, dict):
            # A part's kind may also be the name of one of its fields: it is the kind where another field follows.
            is_kind = step in (value.get("type"), value.get("role")) and following in value
            leads_on = step in value and not is_kind
        else:
            leads_on = isinstance(value, list) and isinstance(step, int)
        if leads_on:
            place.append(step)
            value = value[step]
    if error["type"] == "missing":
        place.append(error["loc"][-1])
    if error["type"] in NO_FIELD:
        place.append(error["ctx"]["discriminator"].strip("'"))
    return tuple(place)


def _reason(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    if error["type"] == "extra_forbidden":
        return "this server takes no such field"
    if error["type"] == "union_tag_invalid":
        return f"expected one of {context['expected_tags']}, got {shorten(str(context['tag']))!r}"
    if error["type"] == "union_tag_not_found":
        return "Field required"
    if error["type"] in AN_OBJECT:
        return "Input should be an object"
    if error["type"] == "string_unicode":
        return NO_CHARACTER
    return error["msg"].removeprefix("Value error, ")


def _name(place: tuple) -> str:
    return shorten(".".join(map(str, place)))
