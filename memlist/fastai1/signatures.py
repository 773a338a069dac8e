"""Signatures with names, which `?` and `help` show: fastai's constructors and factories take `*args` and `**kwargs`."""

from __future__ import annotations

import inspect
from inspect import Parameter, Signature
from typing import Any, Callable, Dict, List

_OPEN = Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD


def of_class(cls: type) -> Signature:
    """Return the signature of a class whose constructors pass on what they do not know, with all parameters by name.

    Raises ValueError or TypeError for a constructor that has no signature.
    """
    found: List[Parameter] = []
    takes = {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}
    for init in (vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base)):
        parameters = _plain(init)[1:]
        for one in parameters:
            if one.kind not in _OPEN and not any(one.name == other.name for other in found):
                by_name = Parameter.VAR_POSITIONAL not in takes
                found.append(one.replace(kind=Parameter.KEYWORD_ONLY) if by_name else one)
        takes &= {one.kind for one in parameters}
        if Parameter.VAR_KEYWORD not in takes:
            break
    keywords = [one for one in found if one.kind is Parameter.KEYWORD_ONLY]
    return Signature([*(one for one in found if one not in keywords), *keywords])


def with_keywords(stock: Callable[..., Any], keywords: Dict[str, Any]) -> Signature:
    "Return the signature of `stock` with more `keywords`, given with their defaults."
    given = _plain(stock)
    more = [Parameter(name, Parameter.KEYWORD_ONLY, default=default) for name, default in keywords.items()]
    rest = [one for one in given if one.kind is Parameter.VAR_KEYWORD]
    return Signature([*(one for one in given if one not in rest), *more, *rest])


def _plain(function: Callable[..., Any]) -> List[Parameter]:
    "Return the parameters of a function without annotations, which make a signature of fastai's hard to read."
    return [one.replace(annotation=Parameter.empty) for one in inspect.signature(function).parameters.values()]
