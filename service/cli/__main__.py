"""`python -m service.cli` is `treadle`."""

from service.cli import main

main()
