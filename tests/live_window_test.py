import subprocess
import sys


def opened(environment: dict[str, str], before: str = "") -> str:
    code = (
        f"{before}\nfrom fer_tfdata.live_window import LiveWindow\nprint(LiveWindow.open('camera'))"
    )
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_there_is_no_window_without_a_screen() -> None:
    assert opened({"PATH": ""}) == "None\n"
    assert opened({"PATH": "", "DISPLAY": ":97"}) == "None\n"


def test_there_is_no_window_without_tkinter() -> None:
    assert opened({"PATH": ""}, "import sys; sys.modules['tkinter'] = None") == "None\n"
