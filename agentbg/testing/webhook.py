"""Webhooks as OpenAI sends them, for tests of what receives them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import uuid


def signed_webhook(
    response_id: str,
    *,
    secret: str,
    type: str = "response.completed",
    id: str | None = None,
    at: float | None = None,
) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a webhook about a run, signed with `secret` ("whsec_…", or any text).

    `id` is the webhook's own, a new one by default: a webhook that comes twice has the same. `at` is when it was sent,
    as Unix time, now by default; older or newer by more than 5 minutes is refused by whoever verifies it. The format is
    that of Standard Webhooks: an HMAC-SHA256 over id, time and body.
    """
    stamp, webhook_id = str(int(time.time() if at is None else at)), id or f"wh_{uuid.uuid4().hex}"
    event = {
        "id": f"evt_{webhook_id}",
        "object": "event",
        "created_at": int(stamp),
        "type": type,
        "data": {"id": response_id},
    }
    body = json.dumps(event).encode()
    key = base64.b64decode(secret.removeprefix("whsec_")) if secret.startswith("whsec_") else secret.encode()
    mac = hmac.digest(key, f"{webhook_id}.{stamp}.".encode() + body, hashlib.sha256)
    signature = f"v1,{base64.b64encode(mac).decode()}"
    return body, {
        "content-type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": stamp,
        "webhook-signature": signature,
    }
