"""The access log of a request names the decision, its rule and the policy's revision, and no secrets."""

from sidecars.demo.ask import ask
from sidecars.demo.demo import at_least, log_lines
from sidecars.demo.edge import Edge
from sidecars.demo.rows import bearer


async def scenario(edge: Edge) -> None:
    token = edge.provider.token("alice", "orders:read")
    headers = {**bearer(token), "referer": "https://shop.example/?access_token=s3cret"}
    assert (await ask(edge.url, "/orders?access_token=s3cret&page=2", headers=headers)).status == 200
    assert (await ask(edge.url, "/orders/7", method="DELETE", headers=headers)).status == 403

    allowed, denied = await log_lines(edge.places.access_log, at_least(2))
    assert (allowed["path"], allowed["code"], allowed["authz_outcome"]) == ("/orders", 200, "allow")
    assert (allowed["authz_rule"], allowed["authz_subject"]) == ("orders-read", "alice")
    assert (denied["path"], denied["code"], denied["authz_outcome"]) == ("/orders/7", 403, "deny")
    assert denied["authz_rule"] == "orders-write"
    assert allowed["authz_policy_revision"] == denied["authz_policy_revision"] != ""
    assert allowed["authz_decision_id"] != denied["authz_decision_id"]
    assert allowed["ratelimit_domain"] == "edge"
    for line in (allowed, denied):
        assert 0 < line["authz_duration_us"] <= line["duration_us"]
    assert "tags" not in allowed

    written = edge.places.access_log.read_text()
    assert "s3cret" not in written
    assert token not in written
