"""`ham-hf export`: a model in another format."""

import argparse
from pathlib import Path

from ham_hf.cli.options import add_model
from ham_hf.cli.parser import Commands, add_group


def add_to(commands: Commands) -> None:
    """Add the command."""
    formats = add_group(commands, "export", "export a model to another format")
    onnx = formats.add_parser(
        "onnx",
        help="one file with weights, labels and preprocessing, for onnxruntime",
        description="Write an ONNX file and check that its predictions match the model's. `ham-hf predict` reads it.",
    )
    add_model(onnx)
    onnx.add_argument("--output", type=Path, metavar="FILE", help="(default: model.onnx in the run folder)")
    onnx.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Export to ONNX."""
    from ham_hf.inference import export

    path, difference = export.export_onnx(args.model, args.output, args.revision, args.label_map)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    print(
        f"the probabilities of {export.CHECKED} synthetic images differ from the model's by at most {difference:.1g}"
    )
