"""``python -m cfcam_gpu``: the command line."""

from .cli import main

main()
