"""Processes that own a device, and the channel to them."""
