"""Locust's --web-login with a login of one's own: our pages and downloads are behind it, too."""

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from urllib.error import HTTPError
from urllib.parse import urlencode, urlparse
from urllib.request import HTTPCookieProcessor, OpenerDirector, build_opener

import pytest

from tests.running import finished, scenario, until
from tests.web import Web, web
from tokenswarm.sim.process import start
from tokenswarm.store.rundir import RunDir

MODEL = {"name": "steady", "model": "steady", "prompt": {"kind": "text", "text": "hi"}}
DOWNLOADS = ("report.html", "summary.json", "request.parquet")
PATHS = ("tokenswarm", "tokenswarm/data", "tokenswarm/assets/live.js")
GATE = """
from flask import redirect, request
from flask_login import UserMixin, login_user
from locust import events

from tokenswarm.load import MixUser


class Mix(MixUser):
    pass


class Somebody(UserMixin):
    def get_id(self):
        return "somebody"


@events.init.add_listener
def gate(environment, **_):
    ui = environment.web_ui
    if ui is None:
        return
    ui.app.secret_key = "of this test"
    ui.login_manager.user_loader(lambda name: Somebody() if name == "somebody" else None)
    ui.auth_args = {"username_password_callback": "/come-in"}

    @ui.app.route("/come-in", methods=["POST"])
    def come_in():
        if request.form["password"] != "open sesame":
            return "no", 403
        login_user(Somebody())
        return redirect("/")
"""


ALL = [*PATHS, *(f"tokenswarm/download/{name}" for name in DOWNLOADS)]


@dataclass(frozen=True)
class Fetched:
    """What each visitor got after a run that somebody who had logged in started; None: refused."""

    run: RunDir
    somebody: dict[str, bytes | None]
    nobody: dict[str, bytes | None]
    forger: dict[str, bytes | None]
    wrong_password: dict[str, bytes | None]


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Fetched:
    folder = tmp_path_factory.mktemp("login")
    gate = folder / "gate.py"
    gate.write_text(GATE)
    forger = build_opener()
    forger.addheaders = [("Cookie", "session=somebody")]
    with start("steady") as box:
        file = scenario(folder / "s.yaml", box.ollama_url, MODEL, duration_s=60, max_requests=5,
                        load={"kind": "closed", "users": 2})  # fmt: skip
        on = web(folder, file, "--web-login", locustfile=gate, logged_in=False)
        somebody = visitor(on, "open sesame")
        post(somebody, on.url + "swarm", user_count=2, spawn_rate=2)
        until(lambda: bool(on.runs) and on.runs[0].report.is_file())
        guests = (somebody, build_opener(), forger, visitor(on, "open barley"))
        found = Fetched(on.runs[0], *(look(on, guest) for guest in guests))
        os.kill(on.process.pid, signal.SIGTERM)
        finished(on.process)
    return found


def visitor(on: Web, password: str) -> OpenerDirector:
    """Somebody with a browser's cookies who has tried `password`."""
    opener = build_opener(HTTPCookieProcessor())
    with suppress(HTTPError):
        post(opener, on.url + "come-in", password=password)
    return opener


def post(by: OpenerDirector, url: str, **form: object) -> None:
    by.open(url, urlencode(form).encode(), timeout=60).close()


def look(on: Web, by: OpenerDirector) -> dict[str, bytes | None]:
    return {path: body(by, on.url + path) for path in ALL}


def body(by: OpenerDirector, url: str) -> bytes | None:
    """What is there; None: refused, or sent to the login instead."""
    try:
        with by.open(url, timeout=30) as answer:
            return None if urlparse(answer.url).path == "/login" else bytes(answer.read())
    except HTTPError as e:
        if e.code in (401, 403):
            return None
        raise


@pytest.mark.parametrize("path", ALL)
def test_who_has_logged_in_gets_it_and_nobody_else(fetched: Fetched, path: str) -> None:
    assert fetched.somebody[path]
    assert fetched.nobody[path] is None
    assert fetched.forger[path] is None
    assert fetched.wrong_password[path] is None


@pytest.mark.parametrize("name", DOWNLOADS)
def test_what_comes_down_is_what_the_run_left(fetched: Fetched, name: str) -> None:
    assert fetched.somebody[f"tokenswarm/download/{name}"] == (fetched.run.path / name).read_bytes()
