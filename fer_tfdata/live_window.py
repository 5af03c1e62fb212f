"""A window on the screen that shows one picture after the other."""

import importlib
from typing import Any, Self

from PIL import Image

from fer_tfdata.images import Pixels


class LiveWindow:
    """A window, until it is closed: by its button, Escape or Q."""

    def __init__(self, tkinter: Any, image_tk: Any, title: str) -> None:
        """Opens the window.

        Args:
          tkinter: the module.
          image_tk: the module `PIL.ImageTk`.
          title: the window's.
        """
        self._image_tk = image_tk
        self._window = tkinter.Tk()
        self._window.title(title)
        self._window.resizable(False, False)
        self._window.protocol("WM_DELETE_WINDOW", self.close)
        for key in ("<Escape>", "q"):
            self._window.bind(key, lambda _: self.close())
        self._label = tkinter.Label(self._window, borderwidth=0)
        self._label.pack()
        self.closed = False

    @classmethod
    def open(cls, title: str) -> Self | None:
        """Opens a window; returns None where there is no screen, or no tkinter."""
        try:
            tkinter: Any = importlib.import_module("tkinter")
            image_tk = importlib.import_module("PIL.ImageTk")
        except ImportError:
            return None
        try:
            return cls(tkinter, image_tk, title)
        except tkinter.TclError:
            return None

    def show(self, picture: Pixels) -> None:
        """Shows a picture, RGB uint8 `[height, width, 3]`, and looks whether the user closed it."""
        if not self.closed:
            self._picture = self._image_tk.PhotoImage(Image.fromarray(picture))  # Tk keeps none
            self._label.configure(image=self._picture)
            self._window.update()

    def close(self) -> None:
        """Closes the window."""
        if not self.closed:
            self.closed = True
            self._window.destroy()
