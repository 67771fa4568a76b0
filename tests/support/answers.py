"""A policy in service, for tests of its responses."""

from typing import Any

from authz.engine.decide import Authorizer, Decision, decision_ids
from authz.engine.respond import Responder
from authz.policy.compile.load import parse_policy
from authz.request.identity import Authentication
from protos.authz_pb2 import CheckResponse
from tests.support.callers import Says
from tests.support.checks import request


class Answers:
    """A policy in service: called with a request, it returns the response."""

    def __init__(self, policy: str, who: Authentication = None) -> None:
        compiled = parse_policy(policy)
        new_id = decision_ids(lambda: 0.5)
        self.says = Says(who)
        self.authorizer = Authorizer(compiled, self.says, new_id)
        self.responder = Responder(compiled, "f" * 24)

    def __call__(self, *args: Any, **asked: Any) -> CheckResponse:
        decision = self.authorizer.decide(request(*args, **asked), 0.0)
        assert isinstance(decision, Decision)
        return CheckResponse.FromString(self.responder.respond(decision))


def pairs(options: Any) -> dict[str, str]:
    return {option.header.key: option.header.value for option in options}


def headers_of(response: CheckResponse) -> dict[str, str]:
    answer = response.error_response if response.HasField("error_response") else response.denied_response
    return pairs(answer.headers)
