"""EasyAnimate V5.1."""
