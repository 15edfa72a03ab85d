"""EasyAnimate V5."""
