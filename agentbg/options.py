"""How to run: what may be told to a service besides what it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .core.token import ContinuationToken
from .errors import UsageError


@dataclass(slots=True)
class AgentRunOptions:
    """How to run. With a token, a run is polled or resumed instead of started."""

    allow_background_responses: bool = False
    """Let the service work in the background. It may still answer at once."""
    continuation_token: ContinuationToken | str | None = None
    """Of a response, for `run`; of an update, for `run_streaming`; or such a token's text."""
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Parameters of the service itself, JSON-safe, sent with the start as they are; they win over all else."""
    reasoning_effort: str | None = None
    """How much to think, in the model's own word: "low", "medium", "high"."""
    max_output_tokens: int | None = None
    """An answer that needs more, its reasoning included, is incomplete."""
    service_tier: str | None = None
    """What to pay for: "default", "flex", "priority"."""
    completion_window: str | None = None
    """By when a background run is to be done: "soonest", "2h", "8h". A later one is cheaper, and a target, no promise.
    At OpenAI "2h" and "8h" are for the standard tier, and for runs without a stream; `extra` takes what else
    `background_options` has."""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    """Kept with the run at the service, and shown there. What `submit(metadata=…)` keeps stays in your store."""
    include: Sequence[str] = ()
    """What the service is to show besides, in its own words: "web_search_call.action.sources"."""

    def over(self, defaults: AgentRunOptions) -> AgentRunOptions:
        """These options, with `defaults` where they say nothing. Of two mappings, both count."""
        return replace(
            self,
            extra={**defaults.extra, **self.extra},
            metadata={**defaults.metadata, **self.metadata},
            reasoning_effort=self.reasoning_effort or defaults.reasoning_effort,
            max_output_tokens=defaults.max_output_tokens if self.max_output_tokens is None else self.max_output_tokens,
            service_tier=self.service_tier or defaults.service_tier,
            completion_window=self.completion_window or defaults.completion_window,
            include=[*dict.fromkeys((*defaults.include, *self.include))],
        )


def check_defaults(options: AgentRunOptions) -> AgentRunOptions:
    """Raise UsageError for options that say what only a single run can."""
    if options.allow_background_responses or options.continuation_token is not None:
        raise UsageError(
            "An agent's options are defaults for all of its runs. Whether a run is in the background, and which one a "
            "token continues, is said with the run."
        )

    return options


def positive(tokens: int | None) -> int | None:
    """A bound of 1 or more, or none."""
    if tokens is not None and tokens < 1:
        raise UsageError(f"max_output_tokens must be 1 or more, or None for no bound; not {tokens}.")

    return tokens
