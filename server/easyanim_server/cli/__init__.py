"""The command `easyanim-server`."""
