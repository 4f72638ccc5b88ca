"""Write docs/api.md from the signatures and docstrings of eventcore's public names.

usage: python docs/build_api.py [--check]        --check writes nothing and fails if docs/api.md is not up to date

Which names there are is asked of the package; how they look is taken from its source, where annotations and defaults
stand as they were written, whatever the Python version.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import eventcore

PAGE = Path(__file__).with_name("api.md")
INTRODUCTION = """\
# API reference

Every public name of `eventcore`, as in `import eventcore as ec`. Written by `docs/build_api.py` from the docstrings:
change those, not this page.
"""
SECTIONS = ("Functions", "Classes", "Errors")
WIDTH = 100
Function = ast.FunctionDef | ast.AsyncFunctionDef
PROTOCOLS = {
    "__len__": "len({})",
    "__iter__": "for … in {}",
    "__aiter__": "async for … in {}",
    "__getitem__": "{}[…]",
    "__enter__": "with {}:",
    "__arrow_c_stream__": "the Arrow PyCapsule stream of {}",
}
"""The special methods that a user meets, as they are written."""


def definition(thing: object) -> Function | ast.ClassDef:
    """The source of a public function or class."""
    module = inspect.getmodule(thing)
    assert module is not None, thing
    if module.__name__.startswith("eventcore._native."):  # compiled: its twin is how it looks
        module = import_module(module.__name__.replace("_native", "_pure"))
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, Function | ast.ClassDef) and node.name == getattr(thing, "__name__", None):
            return node
    raise LookupError(f"{thing!r} is not defined in {module.__name__}")


def text_of(node: ast.stmt | None) -> str:
    """The text of a statement that is nothing but a string: what stands below a field to explain it."""
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return " ".join(inspect.cleandoc(node.value.value).split()) if is_text else ""


def arguments(node: Function, bound: bool) -> list[str]:
    """The arguments as they are written, with `/` and `*`; without `self` if `bound`."""
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults))
    shown = [argument(one, default) for one, default in zip(positional, defaults + given.defaults, strict=True)]
    if given.posonlyargs:
        shown.insert(len(given.posonlyargs), "/")
    if given.vararg:
        shown.append("*" + argument(given.vararg, None))
    elif given.kwonlyargs:
        shown.append("*")
    shown += [argument(one, default) for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    if given.kwarg:
        shown.append("**" + argument(given.kwarg, None))
    return shown[1:] if bound else shown


def argument(node: ast.arg, default: ast.expr | None) -> str:
    text = node.arg + (f": {ast.unparse(node.annotation)}" if node.annotation else "")
    if default is None:
        return text
    return f"{text} = {ast.unparse(default)}" if node.annotation else f"{text}={ast.unparse(default)}"


def signature(node: Function, name: str, bound: bool = False) -> str:
    """`name(arguments) -> type`, one argument a line where one line would be too long."""
    shown, result = arguments(node, bound), f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{name}({', '.join(shown)}){result}"
    return line if len(line) <= WIDTH else f"{name}(\n    " + ",\n    ".join(shown) + f",\n){result}"


def decorators(node: Function | ast.ClassDef) -> set[str]:
    return {ast.unparse(decorator).split("(")[0] for decorator in node.decorator_list}


def methods(node: ast.ClassDef, name: str) -> Iterator[str]:
    """The public methods that a class body gives the class `name`, and the special ones that a user meets."""
    owner = name[0].lower() + name[1:]
    for method in node.body:
        if not isinstance(method, Function) or {"overload", f"{method.name}.setter"} & decorators(method):
            continue
        about = ast.get_docstring(method) or ""
        if method.name in PROTOCOLS:
            yield f"#### `{PROTOCOLS[method.name].format(owner)}`\n\n{about}".rstrip() + "\n"
        elif not method.name.startswith("_"):
            yield (f"#### {name}.{method.name}\n\n{shown_method(method, owner, name)}\n\n{about}".rstrip() + "\n")


def shown_method(method: Function, owner: str, class_name: str) -> str:
    kinds = decorators(method)
    if kinds & {"property", "cached_property"}:
        return code(f"{owner}.{method.name}: {ast.unparse(method.returns)}" if method.returns else method.name)
    name = f"{class_name if kinds & {'classmethod', 'staticmethod'} else owner}.{method.name}"
    return code(
        ("await " if isinstance(method, ast.AsyncFunctionDef) else "")
        + signature(method, name, "staticmethod" not in kinds)
    )


def private_bases(thing: type) -> Iterator[ast.ClassDef]:
    """The bases that no page of their own tells about."""
    for base in thing.__mro__[1:]:
        if base.__module__.startswith("eventcore.") and base.__name__ not in eventcore.__all__:
            node = definition(base)
            assert isinstance(node, ast.ClassDef)
            yield node


def fields(node: ast.ClassDef) -> Iterator[str]:
    """The public fields: name, type, default where it says something, and the text below it."""
    for number, statement in enumerate(node.body):
        if not isinstance(statement, ast.AnnAssign) or ast.unparse(statement.target).startswith("_"):
            continue
        shown = f"{ast.unparse(statement.target)}: {ast.unparse(statement.annotation)}"
        if isinstance(statement.value, ast.Call) and statement.value.args:
            shown += f" = {ast.unparse(statement.value.args[0])}"  # a dataclass field made by a function: its default
        elif statement.value is not None and not isinstance(statement.value, ast.Call):
            shown += f" = {ast.unparse(statement.value)}"
        about = text_of(node.body[number + 1] if number + 1 < len(node.body) else None)
        yield f"- `{shown}`" + (f": {about}" if about else "")


def code(text: str) -> str:
    return f"```text\n{text}\n```"


def entry(name: str) -> str:
    """One public name."""
    thing = getattr(eventcore, name)
    node = definition(thing)
    about = ast.get_docstring(node) or ""
    if isinstance(node, Function):
        return f"### {name}\n\n{code(signature(node, f'ec.{name}'))}\n\n{about}\n"
    bases = ", ".join(f"`{ast.unparse(base)}`" for base in node.bases if ast.unparse(base) != "NamedTuple")
    parts = [f"### {name}\n", f"A kind of {bases}.\n" if bases else "", f"{about}\n" if about else ""]
    parts += ["\n".join(fields(node)) + "\n" if list(fields(node)) else "", *methods(node, name)]
    for base in private_bases(thing):
        parts += methods(base, name)
    return "\n".join(part for part in parts if part)


def section_of(name: str) -> str:
    thing = getattr(eventcore, name)
    if not inspect.isclass(thing):
        return "Functions"
    return "Errors" if issubclass(thing, BaseException) else "Classes"


def page() -> str:
    parts = [INTRODUCTION]
    for section in SECTIONS:
        names = [name for name in eventcore.__all__ if section_of(name) == section]
        parts += [f"## {section}\n", *(entry(name) for name in names)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts))


def main(argv: list[str]) -> int:
    if argv not in ([], ["--check"]):
        sys.stderr.write(f"{__doc__}\n")
        return 2
    new, old = page(), PAGE.read_text("utf-8") if PAGE.exists() else ""
    if not argv:
        PAGE.write_text(new, "utf-8", newline="\n")
        return 0
    sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), "docs/api.md", "docstrings"))
    if new != old:
        sys.stderr.write("docs/api.md is not up to date: run `python docs/build_api.py`\n")
    return int(new != old)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
