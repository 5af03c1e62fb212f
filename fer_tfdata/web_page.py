"""The web page: photographs and a camera's pictures in, the expressions of their faces out.

The page and its programming interface are gradio's.  Pictures are decoded, looked at and shown in
memory; an upload, which gradio writes to its directory, is deleted as it is read.
"""

import base64
import binascii
import dataclasses
import functools
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import fastapi
import gradio as gr

from fer_tfdata import images, prediction_markup
from fer_tfdata.errors import InputError
from fer_tfdata.images import Pixels
from fer_tfdata.markup import Markup, element
from fer_tfdata.prediction import FacePrediction, Predictor

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
    "Pictures are looked at by the machine that serves this page, and are not stored. A model sees "
    "faces, not feelings: what it says is what people would call such a face, and often wrong."
)

_WAITING: Final = prediction_markup.render_message("Results appear here.")

# A face is 48 pixels to the model; a larger frame takes longer to send and to search.
_CAMERA: Final = {"video": {"width": {"ideal": 640}, "height": {"ideal": 480}}}

_STYLE: Final = """
.gradio-container { max-width: 76rem !important; margin: 0 auto; }
.fer h1 { margin: .6rem 0 .2rem; font-size: 1.6rem; font-weight: 600; line-height: 1.25;
  color: inherit; }
.fer .note { max-width: 46rem; color: var(--faint); }
footer { display: none !important; }
"""


class _Upload(NamedTuple):
    """A picture as it was sent."""

    name: str
    content: bytes

    def decode(self) -> Pixels:
        return images.decode_image(self.content, name=self.name)


class _Picture(gr.Image):
    """A picture that reaches its function as it was sent, and is on no disk by then."""

    is_template = True  # what the browser shows is `gr.Image`

    async def async_move_resource_to_block_cache(
        self, url_or_file_path: str | Path | None
    ) -> str | None:
        """Leaves an upload where it is; gradio itself would fetch addresses."""
        if url_or_file_path is None:
            return None
        if not Path(url_or_file_path).is_absolute():
            raise _refused("expected an uploaded picture, received an address")
        return str(url_or_file_path)

    def preprocess(self, payload: Any) -> _Upload | None:
        """Reads a picture; its file goes."""
        if payload is None:
            return None
        try:
            if payload.path is None:
                return _Upload("the picture", _data_of(payload.url or ""))
            file = Path(payload.path)
            content = file.read_bytes()
            file.unlink()
        except InputError as error:
            raise _refused(str(error)) from error
        except OSError as error:
            raise _refused("the picture is not there any more; send it again") from error
        return _Upload(file.name, content)


class _Predictors:
    """Predictors by name; each is used by one thread at a time, since its detector cannot share."""

    def __init__(self, predictors: Mapping[str, Predictor]) -> None:
        self._predictors = dict(predictors)
        self._locks = {name: threading.Lock() for name in predictors}

    @property
    def names(self) -> list[str]:
        return list(self._predictors)

    def predict(self, name: str, image: Pixels) -> list[FacePrediction]:
        with self._locks[name]:
            return self._predictors[name].predict_image(image)


def create_app(predictors: Mapping[str, Predictor]) -> fastapi.FastAPI:
    """Returns the page as an ASGI application.

    Args:
      predictors: by the names that the page offers; the first is chosen at the start.

    Raises:
      InputError: there is none.
    """
    if not predictors:
        raise InputError("expected at least one model, received none")
    page = _page(_Predictors(predictors))
    page.state_session_capacity = _KEPT_VISITORS
    page.queue(max_size=MAX_WAITING, default_concurrency_limit=_PICTURES_AT_ONCE, api_open=False)
    # Nothing of gradio's is on that works with other servers or that keeps what it sees.
    return gr.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
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


def _theme() -> gr.themes.Default:
    # The system's fonts and no others.
    return gr.themes.Default(
        primary_hue=gr.themes.colors.blue,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


def _page(predictors: _Predictors) -> gr.Blocks:
    with gr.Blocks(
        title="Facial expressions",
        analytics_enabled=False,
        delete_cache=(_UNCLAIMED_SECONDS, _UNCLAIMED_SECONDS),
    ) as page:
        gr.HTML(_heading())
        with gr.Row():
            with gr.Column(min_width=320):
                model = gr.Dropdown(
                    predictors.names,
                    value=predictors.names[0],
                    label="Model",
                    visible=len(predictors.names) > 1,
                )
                photograph, snapshot, live = _sources()
            with gr.Column(min_width=320):
                result = gr.HTML(_WAITING)
        _connect(predictors, model, photograph, snapshot, live, result)
        _add_api(predictors, photograph, model)
    return page


def _heading() -> Markup:
    return element(
        "div",
        element("h1", "Facial expressions"),
        element("p", _NOTE, class_="note"),
        class_="fer",
    )


def _sources() -> tuple[_Picture, _Picture, _Picture]:
    """Adds the ways to give a picture: a photograph, a camera's snapshot, a live camera."""
    with gr.Tabs():
        with gr.Tab("Photograph") as photographs:
            photograph = _Picture(
                sources=["upload", "clipboard"],
                label="Photograph",
                height=260,
                buttons=[],
                placeholder="Drop a photograph here\nor press to choose one",
            )
        with gr.Tab("Camera") as snapshots:
            snapshot = _camera("Snapshot", streaming=False)
        with gr.Tab("Live camera") as videos:
            live = _camera("Live camera", streaming=True)
    # A camera that is not shown is off.
    cameras = {snapshots: snapshot, videos: live}
    for tab in (photographs, snapshots, videos):
        tab.select(
            functools.partial(_shown_alone, [shown is tab for shown in cameras]),
            outputs=list(cameras.values()),
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
    return photograph, snapshot, live


def _camera(label: str, *, streaming: bool) -> _Picture:
    return _Picture(
        sources=["webcam"],
        label=label,
        streaming=streaming,
        visible=False,
        buttons=[],
        webcam_options=gr.WebcamOptions(constraints=_CAMERA),
    )


def _shown_alone(shown: Sequence[bool]) -> list[dict[str, Any]]:
    return [gr.update(visible=visible, value=None) for visible in shown]


def _connect(
    predictors: _Predictors,
    model: gr.Dropdown,
    photograph: _Picture,
    snapshot: _Picture,
    live: _Picture,
    result: gr.HTML,
) -> None:
    """Connects what the page shows with what is predicted."""
    kept = gr.State(None, time_to_live=_KEPT_SECONDS)

    def show(upload: _Upload | None, name: str) -> tuple[None, Markup, _Upload | None]:
        # The source is emptied for the next picture; this one is shown with its faces.
        return None, again(upload, name), upload if len(predictors.names) > 1 else None

    def again(upload: _Upload | None, name: str) -> Markup:
        return _WAITING if upload is None else _result(predictors, upload, name)

    def frame(upload: _Upload | None, name: str) -> Markup:
        return _WAITING if upload is None else _result(predictors, upload, name, announced=False)

    shared: dict[str, Any] = {"api_visibility": "private", "show_progress_on": result}
    for source in (photograph, snapshot):
        source.input(
            show,
            [source, model],
            [source, result, kept],
            concurrency_id="picture",
            concurrency_limit=_PICTURES_AT_ONCE,
            **shared,
        )
    model.input(
        again,
        [kept, model],
        result,
        concurrency_id="picture",
        concurrency_limit=_PICTURES_AT_ONCE,
        **shared,
    )
    live.stream(
        frame,
        [live, model],
        result,
        stream_every=_SECONDS_BETWEEN_FRAMES,
        time_limit=MAX_LIVE_SECONDS,
        concurrency_id="live",
        concurrency_limit=_LIVE_AT_ONCE,
        show_progress="hidden",
        **shared,
    )


def _result(
    predictors: _Predictors, upload: _Upload, name: str, *, announced: bool = True
) -> Markup:
    try:
        image = upload.decode()
        faces = predictors.predict(name, image)
    except InputError as error:
        return prediction_markup.render_message(str(error), wrong=True)
    return prediction_markup.render(image, faces, announced=announced)


def _add_api(predictors: _Predictors, photograph: _Picture, model: gr.Dropdown) -> None:
    """Adds what programs call; its name, parameters and answer are in `docs/web_page.md`."""

    def predict(image: _Upload | None, model: str) -> dict[str, Any]:
        if image is None:
            raise _refused("expected a picture, received none")
        try:
            pixels = image.decode()
            faces = predictors.predict(model, pixels)
        except InputError as error:
            raise _refused(str(error)) from error
        height, width = pixels.shape[:2]
        return {"width": width, "height": height, "faces": [_entry(face) for face in faces]}

    # gradio's events have a component that they come from.
    gr.Button(visible=False).click(
        predict,
        [photograph, model],
        gr.JSON(visible=False),
        api_name="predict",
        concurrency_id="picture",
        concurrency_limit=_PICTURES_AT_ONCE,
    )


def _entry(face: FacePrediction) -> dict[str, Any]:
    # float32 holds no more digits.
    shares = {name: round(share, 6) for name, share in face.probabilities.items()}
    return {
        "box": dataclasses.asdict(face.box),
        "expression": face.expression,
        "probabilities": shares,
    }


def _refused(text: str) -> gr.Error:
    return gr.Error(text, print_exception=False)


def _data_of(url: str) -> bytes:
    """Returns what a data URL holds.

    Raises:
      InputError: it is none, or not in base64.
    """
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise InputError("expected an upload or a data URL in base64, received another")
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise InputError(f"expected a data URL in base64, received: {error}") from error
