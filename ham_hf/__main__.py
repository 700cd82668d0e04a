"""`python -m ham_hf` is `ham-hf`."""

from ham_hf.cli.main import main

raise SystemExit(main())
