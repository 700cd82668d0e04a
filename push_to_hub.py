"""Publish a run folder as a model repository on the Hugging Face Hub: the same as `ham-hf push`.

python push_to_hub.py runs/quickstart you/your-model --dry_run
"""

import sys

from ham_hf.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main(["push", *sys.argv[1:]]))
