"""The easyanim server: EasyAnimate V5.1 behind a streaming gRPC call."""
