"""A changed policy takes effect without a restart; a broken one changes nothing, and /readyz stays 200."""

from sidecars.demo.ask import ask
from sidecars.demo.edge import Edge
from sidecars.demo.until import until


async def scenario(edge: Edge) -> None:
    file = edge.places.policy_file
    policy = file.read_text()
    assert (await ask(edge.url, "/new")).status == 403

    file.write_text(policy + "- {name: new, paths: [/new], allow: anyone}\n")
    await until(lambda: _answers(edge, "/new", 200), "the new rule decides")

    file.write_text(policy + "- {name: new, paths: [/new], allow: unknown-word}\n")
    await until(lambda: _failed(edge), "the failed reload is counted")
    assert (await ask(edge.url, "/new")).status == 200
    assert await edge.admin.ready()

    file.write_text(policy)
    await until(lambda: _answers(edge, "/new", 403), "the first policy decides again")


async def _answers(edge: Edge, path: str, status: int) -> bool:
    return (await ask(edge.url, path)).status == status


async def _failed(edge: Edge) -> bool:
    return await edge.admin.metric("sidecars_config_reload_failures_total") > 0
