"""Commands of easyanim-server, one file each."""
