"""What the broker offers: one offering, with a plan for each tier of the platform's intent."""

from typing import Any, Final

OFFERING_ID: Final = "5f0a4f5c-7f0d-4b7a-9b51-2f1f6a5c9d10"

PLANS: Final = {
    "b9b6a1de-3c39-4b1e-8f6a-1d3f1b8f7a01": "silver",
    "c41d7c0e-8a1f-4f5e-9f77-6d0b7b2f4c02": "gold",
}
"""The tiers by the id of their plan. An id must never change, because platforms keep it."""

_PARAMETERS: Final = {
    "$schema": "http://json-schema.org/draft-04/schema#",
    "type": "object",
    "properties": {
        "service": {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,62}$"},
        "description": {"type": "string"},
        "hosts": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "upstream": {"type": "object"},
        "routes": {"type": "array", "items": {"type": "object"}, "minItems": 1},
        "log": {"type": "object"},
        "objectives": {"type": "object"},
    },
    "required": ["service", "hosts", "upstream", "routes"],
    "additionalProperties": False,
}
_SCHEMAS: Final = {
    "service_instance": {"create": {"parameters": _PARAMETERS}, "update": {"parameters": _PARAMETERS}}
}

CATALOG: Final[dict[str, Any]] = {
    "services": [
        {
            "id": OFFERING_ID,
            "name": "edge-service",
            "description": "Hosts and routes at the edge, with who may call them and how often",
            "bindable": False,
            "plan_updateable": True,
            "plans": [
                {
                    "id": plan_id,
                    "name": tier,
                    "description": f"Requests up to the limit of the tier {tier}",
                    "schemas": _SCHEMAS,
                }
                for plan_id, tier in PLANS.items()
            ],
        }
    ]
}
