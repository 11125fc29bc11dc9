"""What a test of background runs needs: virtual time, and a service without a network."""

from .call import Call as Call
from .clock import Deadlock as Deadlock
from .clock import UnannouncedThread as UnannouncedThread
from .clock import VirtualClock as VirtualClock
from .clock import VirtualTimeLoop as VirtualTimeLoop
from .clock import announced as announced
from .clock import outside as outside
from .clock import run as run
from .clock import virtual_time as virtual_time
from .provider import ScriptedProvider as ScriptedProvider
from .proxy import CuttingProxy as CuttingProxy
from .proxy import ResponseCut as ResponseCut
from .script import At as At
from .script import RunScript as RunScript
from .script import approval as approval
from .script import function_call as function_call
from .script import message as message
from .server import ResponsesServer as ResponsesServer
from .webhook import signed_webhook as signed_webhook
