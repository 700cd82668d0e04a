"""`ham-hf demo`: a page that asks a model about photographs. Imports that take seconds are made by who needs them."""

import argparse
import signal
import sys
import time

from ham_hf.cli.label_map import add_label_map

PORT = 7860  # as every Gradio page, and every Space


def add_demo_command(commands: argparse._SubParsersAction) -> None:
    """Add it to those of `ham-hf`."""
    demo = commands.add_parser(
        "demo",
        help="a page in the browser: a photograph in, seven probabilities out",
        description="Serve a page that asks a model about a photograph, to this machine alone. Nothing is stored.",
        allow_abbrev=False,
    )
    demo.add_argument("model", metavar="RUN_OR_HUB_ID", help="a run folder of `ham-hf train`, or a Hub id")
    demo.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen at; 127.0.0.1 when left out, which only this machine reaches",
    )
    demo.add_argument(
        "--port", type=int, default=PORT, help=f"{PORT} when left out; 0 is any port that nobody listens at"
    )
    demo.add_argument("--revision", help="commit, branch or tag of a Hub id; its default branch when left out")
    add_label_map(demo)
    demo.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> None:
    from ham_hf.inference.demo import LOOPBACK, running_demo
    from ham_hf.labels import DISCLAIMER

    # `kill` and a closed terminal must not leave an upload on the disk
    for name in {"SIGTERM", "SIGHUP"} & set(signal.Signals.__members__):
        signal.signal(signal.Signals[name], lambda *_: sys.exit(0))
    try:
        with running_demo(args.model, args.revision, args.label_map, host=args.host, port=args.port) as url:
            print(DISCLAIMER)
            if args.host not in LOOPBACK:
                print(f"Whoever reaches {args.host} can use the page: it asks for no password.")
            print(f"{url} (Ctrl-C ends it)", flush=True)
            while True:
                time.sleep(1)
    except KeyboardInterrupt:
        print("ended: no photograph is left on the disk", file=sys.stderr)
