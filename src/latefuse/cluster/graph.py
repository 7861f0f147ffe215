"""What the compiler of Kubeflow Pipelines lacks for an unrolled graph: nodes with names of their own, lists of inputs.

KFP 2.17 takes a list of artifacts only from a loop (`dsl.Collected`), and a loop has no names. So a component whose
parameter is `Input[List[Model]]` is written out for the number of inputs that a recipe has.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from kfp import dsl

BASE_IMAGE = "python:3.11-slim"


def node(function: Callable[..., Any], name: str, /, **arguments: Any) -> Any:
    """A task of the current pipeline that runs `function` under `name`; lists among the arguments are spread."""
    lists = {key: list(value) for key, value in arguments.items() if isinstance(value, list)}
    component = dsl.component(
        spread(function, {key: len(value) for key, value in lists.items()}) if lists else function,
        base_image=BASE_IMAGE,
        install_kfp_package=False,
    )
    component.component_spec.name = component.name = name
    for key, values in lists.items():
        del arguments[key]
        arguments.update({f"{key}_{index}": value for index, value in enumerate(values)})
    return component(**arguments)


def spread(function: Callable[..., Any], lengths: Mapping[str, int]) -> Callable[..., Any]:
    """`function` with each parameter of `lengths` replaced by that many single inputs `<name>_<i>`.

    Its first statement gathers them again, so the body reads the list it was written for.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    arguments: list[ast.arg] = []
    for argument in definition.args.args:
        if argument.arg in lengths:
            kind = _element(argument)
            arguments += [ast.arg(f"{argument.arg}_{index}", kind) for index in range(lengths[argument.arg])]
        else:
            arguments.append(argument)
    definition.args.args = arguments
    gather = [ast.parse(f"{key} = [{', '.join(f'{key}_{i}' for i in range(n))}]").body[0] for key, n in lengths.items()]
    first = 1 if ast.get_docstring(definition) else 0
    definition.body[first:first] = gather
    source = ast.unparse(ast.fix_missing_locations(tree)) + "\n"
    where = f"<{definition.name} for {dict(lengths)}>"
    linecache.cache[where] = (len(source), None, source.splitlines(keepends=True), where)
    scope = dict(inspect.unwrap(function).__globals__)
    exec(compile(source, where, "exec", dont_inherit=True), scope)
    made: Callable[..., Any] = scope[definition.name]
    return made


def _element(argument: ast.arg) -> ast.expr:
    """`Input[Model]` of a parameter that was declared as `Input[List[Model]]`."""
    kind = argument.annotation
    if not (isinstance(kind, ast.Subscript) and isinstance(kind.slice, ast.Subscript)):
        raise TypeError(f"{argument.arg}: expected Input[List[...]], got {ast.unparse(kind) if kind else 'nothing'}")
    return ast.Subscript(kind.value, kind.slice.slice, ast.Load())
