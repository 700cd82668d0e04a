"""Serve a page that shows a model's prediction for a photograph, where the model looks, and a permanent warning.

ham-hf demo runs/quickstart

Nothing is stored: an upload is removed after ten minutes, and the prediction's pictures are part of the page, which
loads nothing from other machines.
"""

import base64
import importlib.util
import io
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image

from ham_hf.data.image_io import read_photo
from ham_hf.inference.classifier import Classifier, Patient, suspicion
from ham_hf.inference.engine import probabilities
from ham_hf.inference.load import find_classifier, load_classifier
from ham_hf.inference.predict import SYNTHETIC_ALONE, check_patients
from ham_hf.inference.run_files import is_trained_on_synthetic_images
from ham_hf.labels import DISCLAIMER, FULL_NAMES
from ham_hf.system.errors import InputError
from ham_hf.system.installation import install_command, require

if TYPE_CHECKING:  # these take seconds to import, and a misspelled name should not
    from gradio import Blocks

LOOPBACK = ("127.0.0.1", "localhost", "::1")
DELETE_CACHE = (60, 600)  # seconds: every minute, uploads older than ten minutes are removed
# Gradio remembers the last prediction of that many visitors, with its pictures, although the page needs none
SESSIONS = 50
NO_PREDICTION = "<p>The prediction will appear here.</p>"

CSS = """
.gradio-container { max-width: 68rem !important; margin: 0 auto; overflow: clip !important; }
#warning { position: sticky; top: 0; z-index: 1000; padding: .6rem .9rem; border: 1px solid #b45309;
  border-radius: .5rem; background: #fef3c7; }
#warning p, #warning strong { margin: 0; color: #1c1917; }
@media (max-width: 40rem) { #warning { padding: 0 .2rem; } #warning p { font-size: .75rem; line-height: 1.3; } }
#answer h2 { margin: 0 0 .4rem; font-size: 1.15rem; }
#answer table { width: 100%; border-collapse: collapse; }
#answer caption { padding-bottom: .3rem; text-align: left; }
#answer table, #answer tr, #answer th, #answer td { border: 0; }
#answer tr { border-bottom: 1px solid var(--border-color-primary); }
#answer th, #answer td { padding: .35rem 0; font-weight: normal; text-align: left; vertical-align: top; }
#answer thead th { font-weight: 600; }
#answer th + th, #answer td { padding-left: 1rem; text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
#answer .bar { display: block; height: .35rem; min-width: 1px; margin-top: .25rem; border-radius: .2rem;
  background: var(--primary-600); }
#answer .pictures { display: flex; flex-wrap: wrap; gap: 1rem; margin: .8rem 0; }
#answer figure { flex: 1 1 12rem; max-width: 20rem; margin: 0; }
#answer figure img { width: 100%; height: auto; border-radius: .3rem; }
#answer .error { padding: .6rem .9rem; border: 1px solid #b91c1c; border-radius: .5rem; background: #fee2e2;
  color: #1c1917; overflow-wrap: anywhere; }
"""


@contextmanager
def running_demo(
    name: str,
    revision: str | None = None,
    label_map: Mapping[str, str | None] | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
) -> Iterator[str]:
    """Serve the page of one model and yield its address; stop the server and remove the uploads at the end.

    Args:
        name, revision, label_map: see `load_classifier`.
        host: the address to listen on; any other than those in LOOPBACK can be reached from other machines.
        port: 0 for any free one.

    Raises:
        InputError: gradio is missing, the address is in use or not this machine's, or the model cannot be used.
    """
    find_classifier(name, revision)
    require("gradio", "demo", "ham-hf demo")
    port = _free_port(host, port)
    synthetic = is_trained_on_synthetic_images(name, revision)
    classifier = load_classifier(name, revision, label_map)
    with tempfile.TemporaryDirectory(prefix="ham_hf-demo-") as folder:
        # Gradio reads these when it is imported and when a page is built
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        uploads = Path(folder).resolve()
        os.environ["GRADIO_TEMP_DIR"] = str(uploads)
        title = Path(name).resolve().name if Path(name).exists() else name
        hosted = host not in LOOPBACK
        page = build_demo(classifier, title=title, uploads=uploads, synthetic=synthetic, hosted=hosted)
        page.launch(
            server_name=host,
            server_port=port,
            theme=_theme(),
            css=CSS,
            share=False,
            state_session_capacity=SESSIONS,
            run_history=False,  # otherwise the browser would keep photographs and predictions
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            enable_monitoring=False,
            footer_links=[],
            inbrowser=False,
            prevent_thread_lock=True,
            quiet=True,
        )
        try:
            yield cast("str", page.local_url)  # None only before the launch
        finally:
            page.close(verbose=False)


def _free_port(host: str, port: int) -> int:
    """Return the port if it is free, or any free one for 0. Gradio would only check after the model is loaded."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
            return server.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise InputError(
            f"no page can be served at --host {host} --port {port} ({error}): choose another port, such as "
            f"{port + 1}, or an address of this machine"
        ) from error


def _theme():
    from gradio import themes

    # Fonts of the reader's own system, none from another machine; and a button whose words have enough contrast
    theme = themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return theme.set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
    )


def build_demo(
    classifier: Classifier, *, title: str, uploads: Path, synthetic: bool = False, hosted: bool = False
) -> "Blocks":
    """Return the page, not yet served.

    Args:
        classifier: from `load_classifier`.
        title: name of the model on the page.
        uploads: the folder that Gradio puts photographs in; no other file is read.
        synthetic: whether the model was trained on synthetic images.
        hosted: whether the page can be reached from other machines.
    """
    import gradio as gr

    from ham_hf.models.mmbt.processing_mmbt import SEXES

    # Gradio predicts in any of 40 threads, one at a time, and glibc would keep the memory that each of them frees
    model_thread = ThreadPoolExecutor(1, "predict")

    def predict(
        photograph: dict | None, age: str | None = None, sex: str | None = None, site: str | None = None
    ) -> str:
        if photograph is None:
            return _error("choose a photograph first")
        try:
            patient = _patient(classifier, age, sex, site) if classifier.reads_patients else None
            return prediction_html(classifier, _read_upload(photograph, uploads), patient)
        except InputError as error:
            return _error(str(error))

    with gr.Blocks(title=f"{title}: skin lesions", analytics_enabled=False, delete_cache=DELETE_CACHE) as page:
        gr.HTML(_heading(title, hosted))
        gr.HTML(_warning(synthetic), elem_id="warning")
        with gr.Row():
            with gr.Column(min_width=280):
                inputs: list[Any] = [
                    gr.Image(
                        label="Photograph of one lesion",
                        sources=["upload"],
                        buttons=[],
                        placeholder="Drop an image file here to upload",  # as Gradio tells screen readers
                        height=260,
                    )
                ]
                if classifier.reads_patients:
                    inputs += [
                        # Not gr.Number, which shows and sends 0 if it is empty
                        gr.Textbox(label="Age in years (empty: unknown)", max_lines=1),
                        gr.Dropdown(list(SEXES), value="unknown", label="Sex"),
                        gr.Dropdown(["unknown", *classifier.processor.sites], value="unknown", label="Body site"),
                    ]
                else:
                    gr.HTML("<p>This model uses only the image, no patient data.</p>")
                ask = gr.Button("Ask the model", variant="primary")
            with gr.Column(min_width=280):
                result = gr.HTML(NO_PREDICTION, elem_id="answer")
        # A prediction must not stay beside another photograph
        inputs[0].upload(lambda: NO_PREDICTION, outputs=result, show_progress="hidden", api_visibility="private")
        # Not preprocessed: Gradio would decode the photograph itself, and fail with its own message if it is broken
        ask.click(
            lambda *values: model_thread.submit(predict, *values).result(),
            inputs,
            result,
            api_name="predict",
            preprocess=False,
        )
    return page


def _patient(classifier: Classifier, age: str | None, sex: str | None, site: str | None) -> Patient:
    """Return the fields as the model expects them.

    Raises:
        InputError: the age is not a number, or the model does not know a value.
    """
    try:
        years = float(age) if age else None
    except ValueError:
        raise InputError(f"age is {age!r}: expected a number of years, or nothing if it is unknown") from None
    check_patients(classifier, [(years, sex, site)])
    return years, sex, site


def _read_upload(photograph: dict, uploads: Path) -> Image.Image:
    """Return an uploaded photograph.

    Anyone who reaches the page can send what our page never would, such as the path of another file.

    Raises:
        InputError: the file is gone, is no upload, or no photograph; the message has its name without the folder.
    """
    try:
        path = Path(photograph["path"]).resolve()
    except (KeyError, TypeError, ValueError, OSError):
        path = uploads
    if path.parent.parent != uploads:  # Gradio makes a folder for every upload
        raise InputError("this is not a photograph that was uploaded here: choose one first")
    if not path.is_file():
        raise InputError("the photograph has been removed from the disk, after ten minutes: choose it again")
    try:
        return read_photo(path)
    except InputError as error:
        raise InputError(f"cannot use {str(error).replace(str(path), path.name)}") from error


def prediction_html(classifier: Classifier, image: Image.Image, patient: Patient | None) -> str:
    """Return the prediction for an upright RGB image, and where the model looks, as HTML with its pictures."""
    labels = classifier.labels
    [row] = probabilities(classifier, [image], None if patient is None else [patient], total=1)
    lines = [
        f'<tr><th scope="row">{escape(FULL_NAMES[labels[i]])} ({labels[i]})<span class="bar" aria-hidden="true" '
        f'style="width:{100 * row[i]:.1f}%"></span></th><td>{row[i]:.4f}</td></tr>'
        for i in np.argsort(-row, kind="stable")
    ]
    parts = ["<h2>Prediction</h2>"]
    if patient is not None:
        parts.append(f"<p>{escape(_words(*patient))}</p>")
    parts += [
        "<table><caption>Probability of each diagnosis, the likeliest first</caption><thead><tr>"
        '<th scope="col">Diagnosis</th><th scope="col">Probability</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>",
    ]
    if (threshold := classifier.threshold) is not None:
        parts.append(f"<p><strong>{escape(suspicion(threshold))}</strong></p>")
    parts += [_where_it_looks(classifier, image, labels[row.argmax()]), f"<p>{escape(DISCLAIMER)}</p>"]
    return "".join(parts)


def _words(age: float | None, sex: str | None, site: str | None) -> str:
    years = "unknown" if age is None else f"{age:g} years"
    return f"Age: {years}. Sex: {sex or 'unknown'}. Body site: {site or 'unknown'}."


def _where_it_looks(classifier: Classifier, image: Image.Image, label: str) -> str:
    if classifier.reads_patients:
        return "<p>The demo can show where a model looks only if it uses the image alone.</p>"
    if importlib.util.find_spec("captum") is None:
        command = escape(install_command("explain"))
        return f"<p>To see where the model looks, stop the demo, run <code>{command}</code> and start it again.</p>"
    from matplotlib import colormaps

    from ham_hf.inference.saliency import CAVEAT, crop_of, saliency

    model, processor = classifier
    [target, *_] = [number for number, code in model.config.id2label.items() if code == label]
    crop = crop_of(processor, image)
    strength = saliency(model, processor(image, return_tensors="pt")["pixel_values"].to(model.device), target)
    heat = 0.4 * crop.mean(axis=2, keepdims=True) + 0.6 * colormaps["inferno"](strength)[..., :3]
    name = escape(FULL_NAMES[label])
    return (
        '<div class="pictures">'
        + _figure(crop, "The part of the photograph that the model sees", "What the model sees")
        + _figure(heat, "The same part as a heat map", f"Bright: what changes the probability of “{name}” most")
        + f"</div><p>{CAVEAT}</p>"
    )


def _figure(pixels: np.ndarray, alternative: str, caption: str) -> str:
    """Return pixels (H, W, 3) from 0 to 1 as an HTML figure that contains the picture itself."""
    png = io.BytesIO()
    Image.fromarray((255 * pixels).round().astype(np.uint8)).save(png, "PNG")
    data = base64.b64encode(png.getvalue()).decode("ascii")
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{alternative}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _error(message: str) -> str:
    return f'<p class="error" role="alert">{escape(message)}</p>'


def _heading(title: str, hosted: bool) -> str:
    where = (
        "The photograph goes to the machine that serves this page: do not upload photographs of people without their "
        "consent. It is removed from the disk there after ten minutes, and nothing is kept."
        if hosted
        else "The photograph stays on this machine, is removed from its disk after ten minutes, and nothing is kept."
    )
    return f"<h1>{escape(title)}</h1><p>The model’s prediction for a dermatoscopic photograph. {where}</p>"


def _warning(synthetic: bool) -> str:
    warning = f"<p><strong>{escape(SYNTHETIC_ALONE)}</strong></p>" if synthetic else ""
    return f"<p><strong>{escape(DISCLAIMER)}</strong></p>{warning}"
