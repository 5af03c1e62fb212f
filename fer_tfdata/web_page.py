"""The web page: photographs and a camera's pictures in, the expressions of their faces out.

The page and its programming interface are gradio's.  An upload, which gradio writes to a directory,
is deleted once its faces are found (`uploads`); what else there is of a picture is in memory.
"""

import base64
import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import fastapi
import gradio as gr

from fer_tfdata import images, prediction_markup, results
from fer_tfdata.errors import InputError
from fer_tfdata.images import Pixels
from fer_tfdata.markup import Markup, element
from fer_tfdata.prediction import Predictor
from fer_tfdata.results import FacePrediction
from fer_tfdata.uploads import CountedUploads, Uploads

MAX_UPLOAD_BYTES: Final = 20_000_000
"""Of one picture, which is what a good camera makes; of pixels, `images.MAX_PIXELS`."""

MAX_LIVE_SECONDS: Final = 120
"""After so long a live camera makes way for who waits; one press starts it again."""

MAX_WAITING: Final = 16
"""So many pictures wait for their turn; another one is refused."""

# While one is predicted, another is decoded.
_PICTURES_AT_ONCE: Final = 2
_LIVE_AT_ONCE: Final = 4
_SECONDS_BETWEEN_FRAMES: Final = 0.2

# How long a picture stays in memory so that another model can be chosen for it, and of how many
# visitors gradio remembers what they last saw.
_KEPT_SECONDS: Final = 600
_KEPT_VISITORS: Final = 16

# An upload that nobody asks about: a browser that was closed in between.
_UNCLAIMED_SECONDS: Final = 120

_NOTE: Final = (
    "Pictures are looked at by the machine that serves this page, and then deleted; what was shown "
    "last stays in its memory for a while. A model sees faces, not feelings, and is often wrong."
)

_WAITING: Final = prediction_markup.render_message("Results appear here.")

# A face is 48 pixels to the model; a larger frame takes longer to send and to search.
_CAMERA: Final = {"video": {"width": {"ideal": 640}, "height": {"ideal": 480}}}

# A camera that is not shown is off: what is not visible is taken off the page.
_SHOW_CAMERA: Final = (
    "() => [%d, %d].map(visible => ({__type__: 'update', visible: !!visible, value: null}))"
)

_STYLE: Final = """
.gradio-container main { width: 100%; max-width: 76rem; margin: 0 auto; }
.gradio-container .html-container { padding: 0; }
@media (max-width: 40rem) { .gradio-container .main { padding: .5rem 1rem; } }
.fer h1 { margin: .6rem 0 .2rem; font-size: 1.6rem; font-weight: 600; line-height: 1.25;
  color: inherit; }
.fer .note { max-width: 46rem; color: var(--faint); }
footer { display: none !important; }
"""


class _Picture(NamedTuple):
    """A picture as it was sent."""

    name: str
    content: bytes

    def decode(self) -> Pixels:
        return images.decode_image(self.content, name=self.name)


_Predictors = Mapping[str, Predictor]


def create_app(predictors: Mapping[str, Predictor], upload_dir: Path) -> fastapi.FastAPI:
    """Returns the page as an ASGI application.

    Args:
      predictors: by the names that the page offers; the first is chosen at the start.
      upload_dir: where gradio writes uploads, the environment's `GRADIO_TEMP_DIR`; absolute and
        without links.

    Raises:
      InputError: there is no predictor.
    """
    if not predictors:
        raise InputError("expected at least one model, received none")
    uploads = Uploads(upload_dir, unclaimed_seconds=2 * _UNCLAIMED_SECONDS)
    page = _page(predictors, uploads)
    page.state_session_capacity = _KEPT_VISITORS
    page.queue(max_size=MAX_WAITING, default_concurrency_limit=_PICTURES_AT_ONCE, api_open=False)
    # Until a page is launched, gradio lets a request name any file of the machine.
    page.has_launched = True
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(CountedUploads, uploads=uploads)
    # Nothing of gradio's is on that works with other servers or that keeps what it sees.
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        theme=_theme(),
        css=_STYLE + prediction_markup.STYLE,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        ssr_mode=False,
        show_error=False,  # of what nobody foresaw, a visitor is told no more than that
        max_file_size=MAX_UPLOAD_BYTES,
    )


def refuse_connections() -> None:
    """Makes this process unable to connect to another one, and to look up a name.

    For good.  Given an address in place of a picture, gradio would fetch it.
    """
    sys.addaudithook(_refuse_connection)


def _refuse_connection(event: str, _: tuple[Any, ...]) -> None:
    if event in _CONNECTING:
        raise _refused("expected a picture, received an address, where this server does not look")


_CONNECTING: Final = frozenset(
    {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}
)


def _theme() -> gr.themes.Default:
    # The system's fonts and no others.
    return gr.themes.Default(
        primary_hue=gr.themes.colors.blue,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


def _page(predictors: _Predictors, uploads: Uploads) -> gr.Blocks:
    with gr.Blocks(
        title="Facial expressions",
        analytics_enabled=False,
        delete_cache=(_UNCLAIMED_SECONDS, _UNCLAIMED_SECONDS),
    ) as page:
        gr.HTML(_heading())
        with gr.Row():
            with gr.Column(min_width=320):
                model = gr.Dropdown(
                    list(predictors),
                    value=next(iter(predictors)),
                    label="Model",
                    visible=len(predictors) > 1,
                )
                sources = _add_sources()
            with gr.Column(min_width=320):
                result = gr.HTML(_WAITING)
        _connect(predictors, uploads, model, sources, result)
        _add_api(predictors, uploads, model, sources.photograph)
    return page


def _heading() -> Markup:
    return element(
        "div",
        element("h1", "Facial expressions"),
        element("p", _NOTE, class_="note"),
        class_="fer",
    )


class _Sources(NamedTuple):
    """The ways to give a picture."""

    photograph: gr.Image
    snapshot: gr.Image
    live: gr.Image


def _add_sources() -> _Sources:
    with gr.Tabs():
        with gr.Tab("Photograph") as photographs:
            photograph = gr.Image(
                sources=["upload", "clipboard"],
                label="Photograph",
                show_label=False,
                height=260,
                buttons=[],
                placeholder="Drop a photograph here\nor press to choose one",
            )
        with gr.Tab("Camera") as snapshots:
            snapshot = _camera("Snapshot", streaming=False)
        with gr.Tab("Live camera") as videos:
            live = _camera("Live camera", streaming=True)
    for number, tab in enumerate((photographs, snapshots, videos)):
        tab.select(None, outputs=[snapshot, live], js=_SHOW_CAMERA % (number == 1, number == 2))
    return _Sources(photograph, snapshot, live)


def _camera(label: str, *, streaming: bool) -> gr.Image:
    return gr.Image(
        sources=["webcam"],
        label=label,
        show_label=False,
        streaming=streaming,
        visible=False,
        buttons=[],
        webcam_options=gr.WebcamOptions(constraints=_CAMERA),
    )


def _connect(
    predictors: _Predictors,
    uploads: Uploads,
    model: gr.Dropdown,
    sources: _Sources,
    result: gr.HTML,
) -> None:
    """Connects what the page shows with what is predicted."""
    kept = gr.State(None, time_to_live=_KEPT_SECONDS)

    def show(payload: _Payload, name: str) -> tuple[None, Markup, _Picture | None]:
        # The source is emptied for the next picture; this one is shown with its faces.
        with _picture_of(payload, uploads) as picture:
            return None, again(picture, name), picture if len(predictors) > 1 else None

    def again(picture: _Picture | None, name: str) -> Markup:
        return _WAITING if picture is None else _result(predictors, picture, name)

    def frame(payload: _Payload, name: str) -> Markup:
        with _picture_of(payload, uploads) as picture:
            if picture is None:
                return _WAITING
            return _result(predictors, picture, name, announced=False)

    shared: dict[str, Any] = {
        "preprocess": False,
        "api_visibility": "private",
        "show_progress_on": result,
    }
    pictures: dict[str, Any] = {
        "concurrency_id": "pictures",
        "concurrency_limit": _PICTURES_AT_ONCE,
        "trigger_mode": "always_last",  # another choice during the answer to the last one counts
        **shared,
    }
    for source in (sources.photograph, sources.snapshot):
        source.input(show, [source, model], [source, result, kept], **pictures)
    model.input(again, [kept, model], result, **pictures)
    sources.live.stream(
        frame,
        [sources.live, model],
        result,
        stream_every=_SECONDS_BETWEEN_FRAMES,
        time_limit=MAX_LIVE_SECONDS,
        concurrency_id="live",
        concurrency_limit=_LIVE_AT_ONCE,
        show_progress="hidden",
        **shared,
    )


def _result(
    predictors: _Predictors, picture: _Picture, name: str, *, announced: bool = True
) -> Markup:
    try:
        image = picture.decode()
        faces = _faces(predictors, name, image)
    except InputError as error:
        return prediction_markup.render_message(str(error), wrong=True)
    return prediction_markup.render(image, faces, announced=announced)


def _faces(predictors: _Predictors, name: str, image: Pixels) -> list[FacePrediction]:
    if name not in list(predictors):  # a request may have what cannot be a key in its place
        raise InputError(f"model: expected one of {', '.join(predictors)}, received {name}")
    return predictors[name].predict_image(image)


def _add_api(
    predictors: _Predictors, uploads: Uploads, model: gr.Dropdown, photograph: gr.Image
) -> None:
    """Adds what programs call; `docs/web_page.md` promises its name, parameters and answer."""

    def predict(image: _Payload, model: str) -> dict[str, Any]:
        with _picture_of(image, uploads) as picture:
            if picture is None:
                raise _refused("image: expected a picture, received none")
            try:
                pixels = picture.decode()
                faces = _faces(predictors, model, pixels)
            except InputError as error:
                raise _refused(str(error)) from error
        height, width = pixels.shape[:2]
        return {
            "width": width,
            "height": height,
            "faces": [results.face_entry(face) for face in faces],
        }

    # gradio's events have a component that they come from.
    gr.Button(visible=False).click(
        predict,
        [photograph, model],
        gr.JSON(visible=False),
        api_name="predict",
        preprocess=False,
        concurrency_id="pictures",
        concurrency_limit=_PICTURES_AT_ONCE,
    )


# What gradio makes of a picture that was sent: an uploaded file's path, or a data URL.
_Payload = Mapping[str, Any] | None


@contextlib.contextmanager
def _picture_of(payload: _Payload, uploads: Uploads) -> Iterator[_Picture | None]:
    """Gives a picture that was sent, if one was; afterwards, what was uploaded has been used.

    What shows an upload has been sent by then, or is being replaced.

    Raises:
      gr.Error: it is neither an upload nor a data URL, or not there any more.
    """
    if payload is None:
        yield None
        return
    if payload["path"] is None:
        yield _Picture("the picture", _data_of(payload["url"] or ""))
        return
    file = Path(payload["path"]).resolve()
    if not uploads.holds(file):
        raise _refused("expected an uploaded picture, received another file")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise _refused("the picture is not there any more; send it again") from error
    try:
        yield _Picture(file.name, content)
    finally:
        uploads.use(file)


def _data_of(url: str) -> bytes:
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise _refused("expected an upload or a data URL in base64, received neither")
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:  # of base64 itself, or letters that it does not have
        raise _refused(f"expected a data URL in base64, received: {error}") from error


def _refused(text: str) -> gr.Error:
    return gr.Error(text, print_exception=False)
