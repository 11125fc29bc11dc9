"""Background agent runs: as easy to hold as an asyncio.Task, as hard to lose as a database row.

The way through the house: an `Agent` says what to ask, a provider (`agentbg.providers`) how its service says it, the
core (`agentbg.core`) what the answers mean and what to do next, an `AgentRuntime` does it, a store (`agentbg.stores`)
keeps what must survive, and a `BackgroundHandle` is what you hold.
"""

from .agent import Agent as Agent
from .agent import resume_stream as resume_stream
from .batch import Batch as Batch
from .batch import Outcome as Outcome
from .core.budget import EndpointStats as EndpointStats
from .core.budget import RequestBudget as RequestBudget
from .core.hazard import Hazard as Hazard
from .core.intervals import Schedule as Schedule
from .core.model import RunErrorInfo as RunErrorInfo
from .core.model import Usage as Usage
from .core.requests import Answer as Answer
from .core.requests import InputRequest as InputRequest
from .core.requests import RequestKind as RequestKind
from .core.response import AgentRunResponse as AgentRunResponse
from .core.response import Message as Message
from .core.schedule import Backoff as Backoff
from .core.schedule import PollPolicy as PollPolicy
from .core.schedule import RetryPolicy as RetryPolicy
from .core.schedule import StreamPolicy as StreamPolicy
from .core.status import RunStatus as RunStatus
from .core.token import ContinuationToken as ContinuationToken
from .core.update import AgentRunResponseUpdate as AgentRunResponseUpdate
from .core.update import UpdateType as UpdateType
from .errors import AgentBGError as AgentBGError
from .errors import AuthenticationFailed as AuthenticationFailed
from .errors import ConversationLocked as ConversationLocked
from .errors import Fenced as Fenced
from .errors import InputRequired as InputRequired
from .errors import OutputInvalid as OutputInvalid
from .errors import PreviousRunNotFound as PreviousRunNotFound
from .errors import ProviderError as ProviderError
from .errors import RequestRejected as RequestRejected
from .errors import RunCancelled as RunCancelled
from .errors import RunError as RunError
from .errors import RunExpired as RunExpired
from .errors import RunFailed as RunFailed
from .errors import RunIncomplete as RunIncomplete
from .errors import RunNotFound as RunNotFound
from .errors import RuntimeClosed as RuntimeClosed
from .errors import RunTimeout as RunTimeout
from .errors import RunUnknown as RunUnknown
from .errors import ServiceUnavailable as ServiceUnavailable
from .errors import StoreError as StoreError
from .errors import StoreInUse as StoreInUse
from .errors import StoreInvalid as StoreInvalid
from .errors import StoreNewer as StoreNewer
from .errors import StreamRefused as StreamRefused
from .errors import SubmitUnknown as SubmitUnknown
from .errors import TokenError as TokenError
from .errors import TokenExpired as TokenExpired
from .errors import TokenForeign as TokenForeign
from .errors import TokenMalformed as TokenMalformed
from .errors import TokenNewer as TokenNewer
from .errors import TokenTampered as TokenTampered
from .errors import ToolArgumentsInvalid as ToolArgumentsInvalid
from .errors import ToolError as ToolError
from .errors import ToolFailed as ToolFailed
from .errors import ToolTimeout as ToolTimeout
from .errors import Unsupported as Unsupported
from .errors import UsageError as UsageError
from .errors import WebhookInvalid as WebhookInvalid
from .handle import BackgroundHandle as BackgroundHandle
from .options import AgentRunOptions as AgentRunOptions
from .progress import Progress as Progress
from .runtime import AgentRuntime as AgentRuntime
from .stats import Lag as Lag
from .stats import RuntimeStats as RuntimeStats
from .stream import ResumableStream as ResumableStream
from .terms import OnDeadline as OnDeadline
from .thread import AgentThread as AgentThread
from .tools import RunContext as RunContext
from .tools import Tool as Tool
from .tools import tool as tool
from .webhooks import WebhookOutcome as WebhookOutcome
from .webhooks import WebhookReceipt as WebhookReceipt

__version__ = "0.1.0"
