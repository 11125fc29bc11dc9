"""A Responses server over real HTTP on 127.0.0.1, which breaks as it is told; see `docs/testing.md`."""

from .exchange import Exchange as Exchange
from .exchange import Request as Request
from .fault import Fault as Fault
from .items import FunctionCall as FunctionCall
from .items import McpApprovalRequest as McpApprovalRequest
from .items import Message as Message
from .items import OutputItem as OutputItem
from .items import RawItem as RawItem
from .items import Reasoning as Reasoning
from .items import WebSearch as WebSearch
from .reply import Cut as Cut
from .reply import Pause as Pause
from .reply import Reply as Reply
from .reply import Step as Step
from .run import Run as Run
from .script import Script as Script
from .script import echo as echo
from .server import ResponsesServer as ResponsesServer
