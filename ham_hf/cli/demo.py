"""`ham-hf demo`: a local web page that classifies photographs."""

import argparse
import signal
import sys
import time

from ham_hf.cli.options import add_model
from ham_hf.cli.parser import Commands

PORT = 7860  # the default of Gradio and of Spaces
DESCRIPTION = """Serve a web page that predicts the probability of each diagnosis for a photograph.

The predictions are those of `ham-hf predict`. The page also shows where the model looks, if the model reads the image
alone and the extra `explain` is installed. Requires the extra `demo`; the error message says how to install it."""
EPILOG = """example:
  ham-hf demo runs/my_run         then open http://127.0.0.1:7860

privacy:
  Only this machine can reach the page, unless you set --host; it has no password. It loads nothing from other
  machines and keeps nothing: a photograph is deleted after ten minutes, or when the demo ends.

`ham-hf push RUN REPO_ID --space --model MODEL_ID` publishes the same page as a Space on the Hub."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "demo",
        help="classify photographs in the browser",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)"
    )
    parser.add_argument("--port", type=int, default=PORT, help="port; 0 for any free port (default: %(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Serve the page until interrupted."""
    from ham_hf.inference.demo import LOOPBACK, running_demo
    from ham_hf.labels import DISCLAIMER

    # `kill` or a closed terminal must not leave an upload on the disk
    for name in {"SIGTERM", "SIGHUP"} & set(signal.Signals.__members__):
        signal.signal(signal.Signals[name], lambda *_: sys.exit(0))
    try:
        with running_demo(args.model, args.revision, args.label_map, host=args.host, port=args.port) as url:
            print(DISCLAIMER)
            if args.host not in LOOPBACK:
                print(f"Anyone who can reach {args.host} can use the page: it has no password.")
            print(f"{url} (press Ctrl-C to stop)", flush=True)
            while True:
                time.sleep(1)
    except KeyboardInterrupt:
        print("stopped: no photograph is left on the disk", file=sys.stderr)
