"""The easyanim server: EasyAnimate V5 and V5.1 behind a streaming gRPC call."""

from importlib.metadata import version

__version__ = version("easyanim-server")
