"""`sidecars policy`: the rules of authz."""

from pathlib import Path
from typing import Annotated

import orjson
import typer

from common.configfile import ConfigError, Problem, read_text
from common.os_errors import in_words
from sidecars.cli.exit import WRONG
from sidecars.cli.policy_explain import explain
from sidecars.cli.report import report, warn

app = typer.Typer(help="Work with authz policy files.", no_args_is_help=True)

Files = Annotated[
    list[Path], typer.Argument(metavar="FILE", help="Policy files, or folders of them.", exists=True)
]


@app.command()
def check(
    files: Files,
    strict: Annotated[bool, typer.Option("--strict", help="Treat warnings as errors.")] = False,
) -> None:
    """Check policy files together, as authz would load them.

    Example: `sidecars policy check examples/policy.yaml`

    Exit codes: 0 authz would load them; 1 problems were found, one a line; 2 bad usage.
    """
    from authz.policy.compile.load import load_policy

    try:
        policy = load_policy(files)
    except ConfigError as error:
        report(error.problems)
    warn(policy.warnings)
    if strict and policy.warnings:
        raise typer.Exit(WRONG)
    typer.echo(f"ok: {len(policy.rules)} rules, revision {policy.revision}")


@app.command()
def schema(
    suite: Annotated[bool, typer.Option("--suite", help="Print the schema of test suites instead.")] = False,
) -> None:
    """Print the JSON Schema of policy files, for editors and other tools.

    Example: `sidecars policy schema > policy.schema.json`, and in a policy file the first line
    `# yaml-language-server: $schema=policy.schema.json`
    """
    from authz.policy.model import PolicyFile
    from authz.tools.suites.model import SuiteFile

    model = (SuiteFile if suite else PolicyFile).model_json_schema(by_alias=True)
    text = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model}
    typer.echo(orjson.dumps(text, option=orjson.OPT_INDENT_2))


@app.command()
def fmt(
    files: Files,
    check_only: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 if a file would change.")
    ] = False,
) -> None:
    """Format policy files: order of keys, indentation, blank lines. Comments stay.

    The meaning of a file never changes. If the order of keys matters (an alias follows its anchor), it is
    kept; a file that cannot be formatted is reported and not changed.

    Example: `sidecars policy fmt --check examples/policy.yaml`

    Exit codes: 0 all files are formatted; 1 with --check some are not, or a file has problems; 2 bad usage.
    """
    from authz.policy.compile.load import policy_files
    from authz.tools.formatter import format_policy

    problems: list[Problem] = []
    changed = 0
    try:
        found = policy_files(files)
    except ConfigError as error:
        report(error.problems)
    for file in found:
        try:
            text = read_text(file).replace("\r\n", "\n")
            tidied = format_policy(text, str(file))
            if tidied != text and not check_only:
                _write(file, tidied)
        except ConfigError as error:
            problems += error.problems
            continue
        if tidied != text:
            changed += 1
            typer.echo(f"{'would change' if check_only else 'changed'} {file}")
    if problems:
        report(problems)
    if check_only and changed:
        raise typer.Exit(WRONG)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError.of(file, f"cannot be written: {in_words(error)}") from error


@app.command()
def show(files: Files, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show the effective rules, with what they inherit: deny rules first, in the order of evaluation.

    It omits "every host", "every method" and `mode: enforce`, which are common.

    Example: `sidecars policy show examples/policy.yaml`

    Exit codes: 0 shown; 1 problems were found, one a line; 2 bad usage.
    """
    from sidecars.cli.policy_show import show_rules

    show_rules(files, json=json)


@app.command("test")
def run_tests(
    suites: Annotated[
        list[Path], typer.Argument(metavar="SUITE", help="Suite files, or folders of them.", exists=True)
    ],
    policy: Annotated[
        list[Path] | None,
        typer.Option("--policy", help="Policy files or folders, instead of those that the suites name."),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(
            "--junit", dir_okay=False, help="Write the results as JUnit XML; the folder must exist."
        ),
    ] = None,
    min_coverage: Annotated[
        float | None, typer.Option("--min-coverage", min=0, max=100, help="Fail below this percentage.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Explain passed cases too.")] = False,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="List rules and conditions that no case reached.")
    ] = False,
) -> None:
    """Run test suites against a policy: requests, callers and expected results.

    Example: `sidecars policy test examples/policy-tests`

    Exit codes: 0 every case passed; 1 a case failed, a file has problems, or the coverage is too low;
    2 bad usage.
    """
    if junit is not None and not junit.parent.is_dir():
        # Before the suites run: a build would look for the results elsewhere than where they went.
        raise typer.BadParameter(f"there is no folder {str(junit.parent)!r}", param_hint="--junit")
    from sidecars.cli.policy_suites import run_suites

    run_suites(suites, policy, junit, min_coverage, verbose=verbose, coverage=coverage)


app.command()(explain)


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A policy file or folder.", exists=True)],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="A policy file or folder.", exists=True)],
    suites: Annotated[
        list[Path] | None,
        typer.Option("--tests", help="Test suites: show which of their cases have a different result."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Compare two policies: settings of the whole policy, and rules added, removed and changed.

    Example: `sidecars policy diff examples/policy.yaml new-policy.yaml --tests examples/policy-tests`

    Exit codes: 0 no difference; 1 a difference, or a file has problems; 2 bad usage.
    """
    from sidecars.cli.policy_diff import compare_policies

    compare_policies(old, new, suites, json=json)


@app.command()
def replay(
    log: Annotated[
        list[Path],
        typer.Option("--log", help="The access log of the accesslog sidecar (JSON lines); - for stdin."),
    ],
    against: Annotated[
        list[Path], typer.Option("--against", help="The new policy: files or folders.", exists=True)
    ],
    policy: Annotated[
        list[Path] | None,
        typer.Option("--policy", help="The policy that decided the requests; makes fewer undecidable."),
    ] = None,
    callers: Annotated[
        list[Path] | None,
        typer.Option(
            "--callers", help="A YAML file with callers:, as in a suite, for scopes, roles, claims."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Evaluate recorded requests with a new policy, and show which results differ.

    The log lacks scopes, roles, issuer and claims of callers, headers that were not logged, redacted query
    parameters, and bodies. Requests whose result depends on them count as undecidable.

    Example: `sidecars policy replay --log access.jsonl --against new.yaml --policy examples/policy.yaml`

    Exit codes: 0 no result differs; 1 some do, or a file has problems; 2 bad usage.
    """
    from sidecars.cli.policy_diff import replay_log

    replay_log(log, against, policy, callers, json=json)
