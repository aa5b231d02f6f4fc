"""YAML as PyYAML's nodes: a file that stands for more than it holds, or whose tags lie, is an error like any other."""

from __future__ import annotations

from typing import Any

import yaml

MOST = 100_000
"""Values that a file may stand for, aliases written out."""


class Loader(yaml.SafeLoader):
    """Builds plain values only; raises YAMLError for whatever is wrong, with its line, or RecursionError."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            refuse_bomb(node)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # PyYAML trusts a tag to fit its value: `!!int x`, the date 2026-02-31
            problem = f"a value that is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark) from error


def refuse_bomb(node: yaml.Node) -> None:
    """Raise ComposerError when aliases make more than `MOST` values of a node; one that holds itself counts once."""
    sizes: dict[int, int] = {}

    def size(each: yaml.Node) -> int:
        if id(each) not in sizes:
            sizes[id(each)] = 1
            pairs = each.value if isinstance(each, yaml.MappingNode) else []
            items = each.value if isinstance(each, yaml.SequenceNode) else [item for pair in pairs for item in pair]
            sizes[id(each)] += sum(map(size, items))
        return sizes[id(each)]

    if size(node) > MOST:
        raise yaml.composer.ComposerError(
            problem=f"more than {MOST} values, once aliases are written out", problem_mark=node.start_mark
        )


def fault(error: yaml.MarkedYAMLError) -> tuple[str, str]:
    """(":line", or nothing when it isn't known; what is wrong there) of YAML that can't be read."""
    mark = error.problem_mark or error.context_mark
    return f":{mark.line + 1}" if mark else "", str(error.problem or error.context)
