"""The process that evaluates policies: `python -m sidecars.console.evaluator`, started by `sandbox`."""

import gc

from sidecars.console.examples import EXAMPLE_POLICY, EXAMPLE_QUESTION, EXAMPLE_SUITE
from sidecars.console.fork_server import serve
from sidecars.console.priority import give_way


def main() -> None:
    """Import and try what evaluations need, and fork a child for each."""
    give_way()  # before the imports, which take most of a second
    from sidecars.console.evaluate import answer_one, evaluate

    # What is made at its first use is then made for all children.
    evaluate({"policy": EXAMPLE_POLICY, "question": EXAMPLE_QUESTION, "suite": EXAMPLE_SUITE})
    gc.freeze()  # a collection in a child would copy each page that has objects
    serve(answer_one)


if __name__ == "__main__":
    main()
