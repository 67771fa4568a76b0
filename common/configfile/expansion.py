"""Bounds what the aliases of a YAML file mean when they are written out.

A few lines of aliases of aliases mean billions of values, or a depth without end. They cost nothing until
someone looks at each value, such as a message that shows what is wrong.
"""

from typing import Final

import yaml

MAX_REPEATED: Final = 100_000
"""The most values that aliases may add to those that a file writes out, unless the file itself has more."""


def excess(root: yaml.Node, max_depth: int) -> tuple[int, str] | None:
    """Return the line (from 1) of what is too large or too deep with its aliases, and why; else None."""
    found: dict[int, tuple[int, int]] = {}
    # The nodes above the present one: an alias inside its own anchor counts as one value.
    open_nodes: set[int] = set()
    waiting: list[tuple[yaml.Node, bool]] = [(root, False)]
    while waiting:
        node, is_done = waiting.pop()
        if id(node) in found or (not is_done and id(node) in open_nodes):
            continue
        children = _children(node)
        if not is_done:
            open_nodes.add(id(node))
            waiting.append((node, True))
            waiting += [(child, False) for child in children if id(child) not in found]
            continue
        below = [found.get(id(child), (1, 1)) for child in children]
        size = 1 + sum(one for one, _ in below)
        depth = 1 + max((one for _, one in below), default=0)
        found[id(node)] = (size, depth)
        line = node.start_mark.line + 1
        if depth - 1 > max_depth:
            return line, f"nests more than {max_depth} levels deep"
        if size > MAX_REPEATED + len(found):
            return line, f"aliases repeat more than {MAX_REPEATED} values"
    return None


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return []
