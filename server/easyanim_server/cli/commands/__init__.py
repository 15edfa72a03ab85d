"""The commands of `easyanim-server`, one a file; each imports torch only when it runs."""
